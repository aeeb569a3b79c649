"""What the paper's ablations change in Swin, and MMDetection's Swin cannot."""

import re
from collections.abc import Sequence
from typing import Any

from mmdet.models.backbones.swin import ShiftWindowMSA, SwinTransformer, WindowMSA, swin_converter
from mmdet.registry import MODELS
from mmengine.logging import print_log

from mmfocal.errors import CheckpointError, ConfigError
from mmfocal.models.pretrained import check_per_stage, missing_weights, unset_variable
from mmfocal.weights import load_checkpoint
from mmfocal.weights.backbone import find_state_dict

NOT_IN_CLASSIFIERS = re.compile(
    r'norm[0-2]\.|.*\.relative_position_index$'
)  # output norms, and what follows from sizes


@MODELS.register_module()
class SwinVariant(SwinTransformer):
    """MMDetection's Swin Transformer with a window per stage, or without shifts (the paper's Tables 8 and 9).

    Loads checkpoints of its own detectors, of classifiers with MMPretrain's Swin, and of Swin's authors. A file that
    does not fit is an error; tables of another window do not fit.

    Args:
        window_size: Side of an attention window, in tokens; one value, or one per stage. Defaults to 7.
        use_shift: Whether odd blocks shift their windows. Defaults to True.
        init_cfg: As MMDetection's; checkpoint='none' trains from scratch. Defaults to None.
        **kwargs: Other arguments of MMDetection's SwinTransformer.

    Raises:
        ConfigError: If `window_size` is not one positive integer, or one per stage.
    """

    init_cfg: dict | None

    def __init__(
        self,
        *,
        window_size: int | Sequence[int] = 7,
        use_shift: bool = True,
        init_cfg: dict | None = None,
        **kwargs: Any,
    ):
        window_sizes = (window_size,) * 4 if isinstance(window_size, int) else window_size
        check_per_stage('SwinVariant', 'window_size', window_sizes)
        for size in window_sizes:
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ConfigError(f'SwinVariant: window_size must be a positive integer, got {size!r}')
        super().__init__(init_cfg=init_cfg, **kwargs)
        for stage, size in zip(self.stages, window_sizes):
            for i, block in enumerate(stage.blocks):
                _set_window(block.attn, size, shift=use_shift and i % 2 == 1)

    def init_weights(self) -> None:
        """Initializes the weights, or loads those that `init_cfg` names.

        Raises:
            ConfigError: If the environment variable of the weights is not set.
            CheckpointError: If the file cannot be read or does not fit.
        """
        checkpoint = str((self.init_cfg or {}).get('checkpoint', 'none'))
        variable = unset_variable(checkpoint, 'of its config')
        if variable is not None:
            raise missing_weights('SwinVariant', variable)
        if checkpoint != 'none':
            self.load_pretrained(checkpoint)
            return
        init_cfg, self.init_cfg = self.init_cfg, None
        super().init_weights()
        self.init_cfg = init_cfg

    def load_pretrained(self, checkpoint: str) -> None:
        """Loads a checkpoint.

        Args:
            checkpoint: File or URL.

        Raises:
            CheckpointError: If the file cannot be read or does not fit.
        """
        state_dict = find_state_dict(load_checkpoint(checkpoint), checkpoint)
        if any(name.startswith('layers.') for name in state_dict):
            state_dict = swin_converter(state_dict)
        found = {name.removeprefix('backbone.'): value for name, value in state_dict.items()}
        for name, value in self.state_dict().items():
            if name not in found and not NOT_IN_CLASSIFIERS.match(name):
                raise CheckpointError(f'{checkpoint} does not fit this SwinVariant: it lacks {name}')
            if name in found and found[name].shape != value.shape:
                shapes = f'{tuple(found[name].shape)} in the file and {tuple(value.shape)} in the model'
                raise CheckpointError(f'{checkpoint} does not fit this SwinVariant: {name} is {shapes}')
        surplus = [name for name in found if name.startswith('stages.') and name not in self.state_dict()]
        if surplus:
            raise CheckpointError(f'{checkpoint} does not fit this SwinVariant: the model has no {surplus[0]}')
        self.load_state_dict(found, strict=False)
        print_log(f'Loaded a Swin checkpoint from {checkpoint}', 'current')


def _set_window(attention: ShiftWindowMSA, size: int, shift: bool) -> None:
    """Gives an attention layer another window, with a table of its size; all its weights are as initialised."""
    old = attention.w_msa
    attention.window_size, attention.shift_size = size, size // 2 if shift else 0
    if old.window_size == (size, size):
        return
    attention.w_msa = WindowMSA(
        old.embed_dims,
        old.num_heads,
        (size, size),
        qkv_bias=old.qkv.bias is not None,
        qk_scale=old.scale,
        attn_drop_rate=old.attn_drop.p,
        proj_drop_rate=old.proj_drop.p,
    )
