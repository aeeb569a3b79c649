"""The stand-in for `mmcv._ext`, the module of MMCV's compiled operators, and the choice between the two."""

import functools
import importlib
import logging
import os
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from types import ModuleType
from typing import Any

import torch

from mmfocal.errors import ConfigError, MissingOperatorError
from mmfocal.ops.mmcv_ops import (
    bbox_overlaps,
    carafe,
    deform_conv,
    deform_roi_pool,
    focal_loss,
    masked_conv,
    ms_deform_attn,
    nms,
    psa_mask,
    roi_align,
    roi_pool,
    sync_bn,
    torchvision_kernels,
)

NAME = 'mmcv._ext'
VARIABLE = 'MMFOCAL_MMCV_OPS'
CHOICES = ('auto', 'compiled', 'torchvision', 'pytorch')
OPERATORS: dict[str, Callable] = {
    function.__name__: function
    for function in (
        bbox_overlaps.bbox_overlaps,
        carafe.carafe_forward,
        carafe.carafe_backward,
        carafe.carafe_naive_forward,
        carafe.carafe_naive_backward,
        deform_conv.deform_conv_forward,
        deform_conv.deform_conv_backward_input,
        deform_conv.deform_conv_backward_parameters,
        deform_conv.modulated_deform_conv_forward,
        deform_conv.modulated_deform_conv_backward,
        deform_roi_pool.deform_roi_pool_forward,
        deform_roi_pool.deform_roi_pool_backward,
        focal_loss.sigmoid_focal_loss_forward,
        focal_loss.sigmoid_focal_loss_backward,
        focal_loss.softmax_focal_loss_forward,
        focal_loss.softmax_focal_loss_backward,
        masked_conv.masked_im2col_forward,
        masked_conv.masked_col2im_forward,
        ms_deform_attn.ms_deform_attn_forward,
        ms_deform_attn.ms_deform_attn_backward,
        nms.nms,
        nms.softnms,
        nms.nms_match,
        psa_mask.psamask_forward,
        psa_mask.psamask_backward,
        roi_align.roi_align_forward,
        roi_align.roi_align_backward,
        roi_pool.roi_pool_forward,
        roi_pool.roi_pool_backward,
        sync_bn.sync_bn_forward_mean,
        sync_bn.sync_bn_forward_var,
        sync_bn.sync_bn_forward_output,
        sync_bn.sync_bn_backward_param,
        sync_bn.sync_bn_backward_data,
    )
}


class StandIn(ModuleType):
    """Module with all operators that MMCV asks for; one that is not there raises an error when it is called."""

    def __getattr__(self, name: str) -> Callable:
        if name.startswith('__'):
            raise AttributeError(f'module {self.__name__!r} has no attribute {name!r}')
        return OPERATORS_AS_CALLED.get(name) or missing(name)

    def get_compiler_version(self) -> str:
        """Returns what MMCV reports as its compiler."""
        return 'none: operators of mmfocal'

    def get_compiling_cuda_version(self) -> str:
        """Returns what MMCV reports as its CUDA version; 'not available' is MMCV's own word."""
        return 'not available'


class StandInLoader:
    """Loader of the stand-in: MMCV and MMEngine look for the module's spec and its loader."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return StandIn(spec.name, StandIn.__doc__)

    def exec_module(self, module: ModuleType) -> None:
        """Does nothing: operators are looked up when they are asked for."""


def install(operators: str | None = None) -> str:
    """Makes `mmcv.ops` work without compiled operators; to be called before `mmcv.ops` is imported.

    The stand-in is used where MMCV's compiled operators cannot be imported. Where they can, but were compiled without
    those for the accelerator that PyTorch sees, tensors on the accelerator go to the stand-in.

    Args:
        operators: 'auto'; 'compiled' for MMCV's own; 'torchvision' or 'pytorch' for the stand-in even where compiled
            ones are there, with torchvision's kernels where it has one or without. Default: the environment
            variable `MMFOCAL_MMCV_OPS`, or 'auto'. 'auto' takes torchvision's kernels where they are faster.

    Returns:
        Which operators run, for the log.

    Raises:
        ConfigError: If the operators that are asked for cannot be had.
        ModuleNotFoundError: If MMCV is not installed.
    """
    choice = operators or os.environ.get(VARIABLE) or 'auto'
    if choice not in CHOICES:
        raise ConfigError(f'{VARIABLE}={choice}: unknown operators; choose from {", ".join(CHOICES)}')
    importlib.import_module('mmcv')
    if choice in ('torchvision', 'pytorch'):
        use_stand_in(choice)
    elif not isinstance(sys.modules.get(NAME), StandIn):
        use_compiled(choice)
    elif choice == 'compiled':
        raise ConfigError(f'{VARIABLE}=compiled: the stand-in is already in use; set it before mmfocal is imported')
    return describe()


def use_compiled(choice: str) -> None:
    """Imports the compiled operators; falls back to the stand-in for 'auto'."""
    try:
        compiled = importlib.import_module(NAME)
    except ImportError as error:
        if choice == 'compiled':
            raise ConfigError(f'{VARIABLE}=compiled: {NAME} cannot be imported ({error}); {HOW_TO_COMPILE}') from error
        if not isinstance(error, ModuleNotFoundError):
            first_line = str(error).partition('\n')[0]
            logging.getLogger(__name__).warning(
                "mmcv._ext: cannot be imported (%s); mmfocal's operators are used; compile MMCV again for this torch",
                first_line,
            )
        use_stand_in('auto')
        return
    if choice == 'auto' and lacks_accelerator(compiled):
        complement(compiled)


def use_stand_in(choice: str) -> None:
    """Puts the stand-in into `sys.modules`, with torchvision's kernels unless the choice is 'pytorch'."""
    present = sys.modules.get(NAME)
    if not isinstance(present, StandIn):
        if 'mmcv.ops' in sys.modules:
            raise ConfigError(
                f'{VARIABLE}={choice}: mmcv.ops is already imported; set it before, or import mmfocal first'
            )
        spec = ModuleSpec(NAME, StandInLoader())  # type: ignore[arg-type]
        sys.modules[NAME] = module_from_spec(spec)
    torchvision_kernels.enabled, torchvision_kernels.always = choice != 'pytorch', choice == 'torchvision'
    if choice == 'torchvision' and not torchvision_kernels.run_on('cpu'):
        reason = torchvision_kernels.failures.get('cpu', 'not installed')
        raise ConfigError(
            f'{VARIABLE}=torchvision: its operators do not run ({reason}); install torchvision for this torch'
        )


def lacks_accelerator(compiled: ModuleType) -> bool:
    """Returns whether PyTorch sees an accelerator for which MMCV was compiled without operators."""
    return compiled.get_compiling_cuda_version() == 'not available' and torch.accelerator.is_available()


def complement(compiled: ModuleType) -> None:
    """Replaces the operators of a compiled module: tensors on an accelerator go to the stand-in.

    `mmcv.ops` looks operators up in the module when it calls them, so that this works after its import too.
    """
    for name in dir(compiled):
        function = getattr(compiled, name)
        if callable(function) and not name.startswith(('_', 'get_comp')) and not hasattr(function, 'compiled'):
            setattr(compiled, name, dispatch(name, function))


def dispatch(name: str, compiled: Callable) -> Callable:
    """Returns an operator that chooses by the tensors' device."""
    other = OPERATORS_AS_CALLED.get(name) or missing(name)

    @functools.wraps(other, updated=())
    def operator(*args: Any, **kwargs: Any) -> Any:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
        return (compiled if all(tensor.device.type == 'cpu' for tensor in tensors) else other)(*args, **kwargs)

    operator.compiled = compiled  # type: ignore[attr-defined]
    return operator


def describe() -> str:
    """Returns which of MMCV's operators run; empty if MMCV's are not loaded."""
    module = sys.modules.get(NAME)
    if module is None:
        return ''
    if isinstance(module, StandIn):
        return f'MMCV operators: {describe_stand_in("cuda" if torch.cuda.is_available() else "cpu")}'
    if hasattr(getattr(module, 'nms', None), 'compiled'):
        device = torch.accelerator.current_accelerator()
        device_type = device.type if device else 'cpu'
        return f'MMCV operators: compiled on the CPU; on {device_type}: {describe_stand_in(device_type)}'
    return 'MMCV operators: compiled'


def describe_stand_in(device_type: str) -> str:
    """Returns which operators the stand-in runs on a device type."""
    if torchvision_kernels.run_on(device_type):
        rest = 'where torchvision has none' if torchvision_kernels.preferred_on(device_type) else 'apart from NMS'
        return f'torchvision {sys.modules["torchvision"].__version__}, PyTorch {rest}'
    failure = torchvision_kernels.failures.get(device_type)
    return f"PyTorch (torchvision's do not run: {failure})" if failure else 'PyTorch'


HOW_TO_COMPILE = (
    'compile MMCV: pip uninstall mmcv-lite; '
    'MMCV_WITH_OPS=1 pip install --no-build-isolation --no-binary mmcv mmcv==2.1.0'
)


def missing(name: str) -> Callable:
    """Returns a function that raises `MissingOperatorError`."""

    def operator(*args: Any, **kwargs: Any) -> Any:
        raise MissingOperatorError(f'mmcv.ops: {name} runs only compiled, for this device; {HOW_TO_COMPILE}')

    operator.__name__ = name
    return operator


def as_called(function: Callable) -> Callable:
    """Returns an operator as MMCV calls it: like a compiled one, opaque to autograd, autocast and `torch.compile`."""

    @functools.wraps(function)
    def eager(*args: Any, **kwargs: Any) -> Any:
        device_type = next(value.device.type for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
        with torch.no_grad():
            if not torch.is_autocast_enabled(device_type):
                return function(*args, **kwargs)
            with torch.autocast(device_type, enabled=False):
                return function(*args, **kwargs)

    disabled: list[Callable] = []

    @functools.wraps(function)
    def operator(*args: Any, **kwargs: Any) -> Any:
        if 'torch._dynamo' not in sys.modules:  # its import takes a second, and nothing is compiled without it
            return eager(*args, **kwargs)
        if not disabled:
            disabled.append(torch.compiler.disable(eager))
        return disabled[0](*args, **kwargs)

    return operator


OPERATORS_AS_CALLED = {name: as_called(function) for name, function in OPERATORS.items()}
