from collections.abc import Sequence
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from mmfocal.errors import ConfigError


def shard_model(model: nn.Module, units: str | type | Sequence[str | type]) -> None:
    """Shards a model's parameters among all processes, in place, by PyTorch's FSDP. Its state dict stays complete.

    All processes have to call `state_dict` and `load_state_dict` together, and load the same.

    Args:
        model: On its device, with the same weights in all processes.
        units: Classes of submodules, or their names. Each is gathered for its own forward and backward only; other
            parameters are gathered during the whole iteration.

    Raises:
        ConfigError: If the model has no submodule of such a class.
    """
    units = [units] if isinstance(units, (str, type)) else units
    units = [unit if isinstance(unit, str) else unit.__name__ for unit in units]
    parts = [module for module in model.modules() if type(module).__name__ in units]
    missing = set(units) - {type(module).__name__ for module in parts}
    if missing or not parts:
        missing = ' and no '.join(sorted(missing)) or 'unit'
        raise ConfigError(
            f'fsdp_units={units}: the model has no {missing}; name classes of its blocks, such as FocalBlock'
        )
    shapes = {name: parameter.shape for name, parameter in model.named_parameters(remove_duplicate=False)}
    for module in list(model.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.dim() == 0:  # FSDP refuses scalars; one element broadcasts alike
                setattr(module, name, nn.Parameter(parameter.detach().reshape(1), parameter.requires_grad))
    mesh = init_device_mesh(next(model.parameters()).device.type, (torch.distributed.get_world_size(),))
    for module in (*parts, model):
        fully_shard(module, mesh=mesh)

    shards = dict(model.named_parameters(remove_duplicate=False))
    for name, shard in shards.items():
        shard.full_shape = shapes[name]

    def gather(module, state_dict, prefix, local_metadata):
        for name, shard in shards.items():
            state_dict[prefix + name] = _gathered(state_dict[prefix + name], shard)

    def shard_again(module, state_dict, prefix, *args):
        for name, shard in shards.items():
            if prefix + name in state_dict:
                state_dict[prefix + name] = _sharded(state_dict[prefix + name], shard)

    model.register_state_dict_post_hook(gather)
    model.register_load_state_dict_pre_hook(shard_again)


def shard_optimizer(optim_wrapper: OptimWrapper) -> None:
    """Makes a sharded model's optimizer save and load complete states, and log the norm of all gradients.

    Args:
        optim_wrapper: Of a model after `shard_model`.
    """
    shards = [shard for group in optim_wrapper.param_groups for shard in group['params']]

    def convert(state_dict, conversion):
        state = {
            index: {
                name: value if name == 'step' else conversion(value, shards[index]) for name, value in values.items()
            }
            for index, values in state_dict['state'].items()
        }
        return {**state_dict, 'state': state}

    optimizer = optim_wrapper.optimizer
    optimizer.register_state_dict_post_hook(lambda _, state_dict: convert(state_dict, _gathered))
    optimizer.register_load_state_dict_pre_hook(lambda _, state_dict: convert(state_dict, _sharded))

    if optim_wrapper.clip_grad_kwargs:
        clip = optim_wrapper.clip_func

        def clip_and_gather_norm(*args, **kwargs):
            # MMEngine logs float() of the norm, which would be that of this process' shards only.
            norm = clip(*args, **kwargs)
            return norm.full_tensor() if isinstance(norm, DTensor) else norm

        optim_wrapper.clip_func = clip_and_gather_norm


def _gathered(value: Any, shard: DTensor) -> Any:
    """Returns a sharded parameter's complete value, or that of its optimizer state, on the CPU."""
    return value.full_tensor().cpu().reshape(shard.full_shape) if isinstance(value, DTensor) else value


def _sharded(value: Any, shard: DTensor) -> Any:
    """Returns the opposite; a value of another shape, such as another model's weight, is left as it is."""
    if isinstance(value, DTensor) or not isinstance(value, Tensor) or value.shape != shard.full_shape:
        return value
    return distribute_tensor(value.to(shard.device).reshape(shard.shape), shard.device_mesh, shard.placements)
