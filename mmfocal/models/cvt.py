"""Convolutional vision Transformer (CvT), a baseline of the paper's Table 2: transformers' `CvtModel` as a backbone."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmfocal.errors import ConfigError, MissingPackageError
from mmfocal.models.pretrained import PretrainedBackbone, check_choice
from mmfocal.ops.torchvision_import import prepare_torchvision
from mmfocal.weights.cvt import load_cvt_weights


@MODELS.register_module()
class CvT(PretrainedBackbone):
    """CvT backbone, https://arxiv.org/abs/2103.15808, built from transformers' `CvtConfig` without a download.

    The layers are transformers' with the released code's activation and stochastic depth: transformers has GELU in
    the MLP, drops the residual path together with the branch, and gives all blocks of a stage one rate.

    Args:
        arch: 'cvt-13', 'cvt-21', or dict(embed_dim=…, depth=…, num_heads=…): channels, blocks and heads, one per stage.
        in_channels: Channels of the image.
        drop_path_rate: Stochastic depth of the last block of stage 3; it grows linearly from 0 within that stage, and
            is 0 before.
        activation: Of the MLP: 'quick_gelu', x · sigmoid(1.702 x), as released; or 'gelu', as in transformers.
        out_type: 'cls_token': the normalized class token, for classification; or 'featmap': maps of `out_indices`.
        out_indices: Stages, 0–2, whose maps are returned.
        init_cfg: dict(type='Pretrained', checkpoint=FILE_OR_URL) loads a released checkpoint, in its authors' names or
            transformers', or one of ours; 'none' starts from scratch.

    Raises:
        ConfigError: If an argument cannot work, or transformers is not installed.
    """

    model: Any  # transformers'; its modules have no types
    norm: nn.LayerNorm | None
    archs = {
        'cvt-13': dict(embed_dim=(64, 192, 384), depth=(1, 2, 10), num_heads=(1, 3, 6)),
        'cvt-21': dict(embed_dim=(64, 192, 384), depth=(1, 4, 16), num_heads=(1, 3, 6)),
    }

    def __init__(
        self,
        *,
        arch: str | dict = 'cvt-13',
        in_channels: int = 3,
        drop_path_rate: float = 0.1,
        activation: str = 'quick_gelu',
        out_type: str = 'cls_token',
        out_indices: Sequence[int] = (2,),
        init_cfg: dict | list | None = None,
    ):
        super().__init__(init_cfg)
        check_choice('CvT', 'activation', activation, ('quick_gelu', 'gelu'))
        check_choice('CvT', 'out_type', out_type, ('cls_token', 'featmap'))
        if not out_indices or tuple(out_indices) != tuple(sorted(set(out_indices) & set(range(3)))):
            raise ConfigError(f'CvT: out_indices must list stages from 0 to 2 in increasing order, got {out_indices!r}')
        self.arch = arch if isinstance(arch, str) else 'custom'
        self.out_type = out_type
        self.out_indices = tuple(out_indices)
        self.in_channels = in_channels
        self.model = _model(_arch(arch, self.archs), in_channels)
        self.norm = nn.LayerNorm(self.model.config.embed_dim[-1]) if out_type == 'cls_token' else None
        for i, stage in enumerate(self.model.encoder.stages):
            rates = torch.linspace(0, drop_path_rate if i == 2 else 0, len(stage.layers), device='cpu').tolist()
            for layer, rate in zip(stage.layers, rates):
                # transformers' drop path comes after the residual sum, so it moves to where the branches end
                layer.drop_path = nn.Identity()
                for branch in (layer.attention.output, layer.output):
                    branch.dropout = nn.Sequential(branch.dropout, DropPath(rate)) if rate else branch.dropout
                if activation == 'quick_gelu':
                    layer.intermediate.activation = QuickGELU()

    def load_pretrained(self, checkpoint: str, **options) -> None:
        """Loads a released checkpoint, or one of ours."""
        load_cvt_weights(self, checkpoint)

    @property
    def weights_variable(self) -> str:
        return self.arch.upper().replace('-', '_')

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Computes the class token or the maps of the stages.

        Args:
            x: Images (B, in_channels, H, W), normalized, at least 16 × 16 pixels.

        Returns:
            With `out_type='cls_token'`, one tensor (B, C). With 'featmap', maps of `out_indices`, each (B, C,
            H/stride, W/stride), strides 4, 8 and 16.

        Raises:
            ValueError: If the images are no batch of images or too small.
        """
        if x.dim() != 4 or x.shape[1] != self.in_channels or min(x.shape[2:]) < 16 or not len(x):
            raise ValueError(
                f'CvT: needs a non-empty batch of images (B, {self.in_channels}, H, W), at least 16 × 16 pixels, got '
                f'{tuple(x.shape)}'
            )
        self.warn_if_not_loaded()
        outs = []
        token = None
        for i, stage in enumerate(self.model.encoder.stages):
            x, token = stage(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs) if self.norm is None else (self.norm(token)[:, 0],)


class DropPath(nn.Module):
    """Drops a residual branch, per image, in training.

    Args:
        rate: Probability.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = 1 - self.rate
        return x * x.new_empty(len(x), *(1,) * (x.dim() - 1)).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        return f'rate={self.rate}'


class QuickGELU(nn.Module):
    """Sigmoid approximation of GELU, x · sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def _arch(arch: str | dict, archs: dict[str, dict]) -> dict:
    if isinstance(arch, str):
        check_choice('CvT', 'arch', arch, tuple(archs))
        return archs[arch]
    if not isinstance(arch, dict) or set(arch) != {'embed_dim', 'depth', 'num_heads'}:
        raise ConfigError(
            f'CvT: arch must be one of {", ".join(map(repr, archs))} or dict(embed_dim=…, depth=…, num_heads=…), got '
            f'{arch!r}'
        )
    for name, values in arch.items():
        if (
            not isinstance(values, Sequence)
            or len(values) != 3
            or not all(isinstance(v, int) and v > 0 for v in values)
        ):
            raise ConfigError(f'CvT: arch.{name} must have 3 positive entries, one per stage, got {values!r}')
    for i, (dim, heads) in enumerate(zip(arch['embed_dim'], arch['num_heads'])):
        if dim % heads:
            raise ConfigError(f'CvT: arch.num_heads[{i}]={heads} does not divide the {dim} channels of stage {i}')
    return arch


def _model(arch: dict, in_channels: int) -> nn.Module:
    if find_spec('transformers') is None:
        raise MissingPackageError('CvT: transformers is not installed; pip install mmfocal[cvt]')
    prepare_torchvision()  # transformers imports it where it is installed
    from transformers import CvtConfig, CvtModel

    return CvtModel(CvtConfig(num_channels=in_channels, **{name: list(values) for name, values in arch.items()}))
