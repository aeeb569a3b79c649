"""What is measured against each other: focal attention, roll + unfold, and the Swin Transformers of other libraries."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mmfocal.benchmark.speed.cases import ARCHS, Case
from mmfocal.benchmark.speed.flex import flex_operator
from mmfocal.benchmark.speed.roll_unfold import (
    neighbor_columns,
    neighbor_table,
    roll_unfold_attention,
    roll_unfold_backbone,
)
from mmfocal.errors import ConfigError
from mmfocal.models import FocalTransformer, VisionLongformer
from mmfocal.ops import focal_attention
from mmfocal.ops.focal_attention import BACKENDS

Operator = Callable[[Tensor, Tensor, Tensor, list[tuple[Tensor, Tensor]]], Tensor]


@dataclass(frozen=True)
class Implementation:
    """A backbone or an operator that can be measured.

    Args:
        label: Its name in tables and plots.
        build: (case) → nn.Module for a backbone; (case, bias) → a function of (q, k, v, pooled_kv) for an operator.
        needs: A module that must be importable.
        casts: Whether its weights can be cast to half precision; if not, its inference uses mixed precision.
    """

    label: str
    build: Callable[..., Any]
    needs: str = 'mmfocal'
    casts: bool = True


def _check_backend(backend: str, case: Case) -> None:
    if backend == 'triton' and case.device == 'cpu':  # where only its interpreter runs, for tests
        raise ConfigError('the Triton backend needs a CUDA device')


def _focal_backbone(backend: str, with_cp: bool = False) -> Callable[[Case], nn.Module]:
    def build(case: Case) -> nn.Module:
        _check_backend(backend, case)
        return FocalTransformer(arch=ARCHS[case.arch], drop_path_rate=0.0, attention_backend=backend, with_cp=with_cp)

    return build


def _roll_unfold_backbone(case: Case) -> nn.Module:
    return roll_unfold_backbone(arch=ARCHS[case.arch], drop_path_rate=0.0)


def _mmdet_swin(with_cp: bool) -> Callable[[Case], nn.Module]:
    def build(case: Case) -> nn.Module:
        from mmdet.models.backbones.swin import SwinTransformer

        return SwinTransformer(**ARCHS[case.arch], drop_path_rate=0.0, with_cp=with_cp)

    return build


def _timm_swin(fused: bool) -> Callable[[Case], nn.Module]:
    def build(case: Case) -> nn.Module:
        import timm
        from timm.layers import set_fused_attn

        set_fused_attn(True, experimental=fused)  # window attention is experimental there, and not fused by default
        dims = dict(ARCHS[case.arch])
        return timm.create_model(
            'swin_tiny_patch4_window7_224',
            features_only=True,
            img_size=(case.height, case.width),
            drop_path_rate=0.0,
            embed_dim=dims.pop('embed_dims'),
            **dims,
        )

    return build


class _TorchvisionFeatures(nn.Module):
    """Returns the four stages' maps of torchvision's classifier, (B, h, w, C), without output norms."""

    def __init__(self, features: nn.Sequential):
        super().__init__()
        self.features = features  # stem, then stages with merging layers between them

    def forward(self, x: Tensor) -> list[Tensor]:
        outs = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i % 2:
                outs.append(x)
        return outs


def _torchvision_swin(case: Case) -> nn.Module:
    from torchvision.models import SwinTransformer

    dims = ARCHS[case.arch]
    model = SwinTransformer(
        patch_size=[4, 4],
        embed_dim=dims['embed_dims'],
        depths=list(dims['depths']),
        num_heads=list(dims['num_heads']),
        window_size=[7, 7],
        stochastic_depth_prob=0.0,
    )
    return _TorchvisionFeatures(model.features)


# the paper's Tables 3 and 4 compare these; 'nano' has Focal's channels, blocks and heads
VIL_ARCHS: dict[str, str | dict] = {
    'tiny': 'small',
    'small': 'medium',
    'base': 'base',
    'nano': dict(embed_dims=(16, 32, 64, 128), depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8)),
}


def _vil(case: Case) -> nn.Module:
    if case.arch not in VIL_ARCHS:
        raise ConfigError(f'ViL has no counterpart of {case.arch!r}; choose from {", ".join(VIL_ARCHS)}')
    return VisionLongformer(arch=VIL_ARCHS[case.arch], img_size=max(case.height, case.width), drop_path_rate=0.0)


BACKBONES = {
    'focal': Implementation('Focal (ours)', _focal_backbone('auto')),
    **{f'focal_{name}': Implementation(f'Focal, {name}', _focal_backbone(name)) for name in BACKENDS},
    'roll_unfold': Implementation('Focal, roll + unfold', _roll_unfold_backbone),
    # masks stay float32 when the weights are cast
    'swin_mmdet': Implementation('Swin, MMDetection', _mmdet_swin(False), 'mmdet.models.backbones.swin', casts=False),
    'swin_timm': Implementation('Swin, timm', _timm_swin(False), 'timm'),
    'swin_timm_fused': Implementation('Swin, timm, fused', _timm_swin(True), 'timm'),
    'swin_torchvision': Implementation('Swin, torchvision', _torchvision_swin, 'torchvision.models'),
    'vil': Implementation('ViL, mmfocal', _vil),
    'focal_with_cp': Implementation('Focal (ours), with_cp', _focal_backbone('auto', with_cp=True)),
    'swin_mmdet_with_cp': Implementation(
        'Swin, MMDetection, with_cp', _mmdet_swin(True), 'mmdet.models.backbones.swin', casts=False
    ),
}


def _focal_operator(backend: str) -> Callable[[Case, Tensor], Operator]:
    def build(case: Case, bias: Tensor) -> Operator:
        _check_backend(backend, case)
        layout = case.layout
        return lambda q, k, v, pooled_kv: focal_attention(q, k, v, pooled_kv, bias, layout, backend=backend)

    return build


def _roll_unfold_operator(case: Case, bias: Tensor) -> Operator:
    layout = case.layout
    own, ring, pooled = bias.detach().split([layout.tokens, layout.ring, layout.region(0) ** 2], -1)
    biases = [part.clone().requires_grad_(bias.requires_grad) for part in (own, neighbor_table(ring, layout), pooled)]
    kept = neighbor_columns(layout)[0].to(bias.device)

    def attend(q, k, v, pooled_kv):
        return roll_unfold_attention(q, k, v, pooled_kv, biases, layout, kept)

    attend.biases = biases
    return attend


def _window_operator(case: Case, bias: Tensor) -> Operator:
    """Builds Swin's attention without its shift: PyTorch's fused attention within each window."""
    bias = bias.detach()[None, :, :, : case.layout.tokens].clone().requires_grad_(bias.requires_grad)

    def attend(q, k, v, pooled_kv):
        batch, height, width, heads, head_dim = q.shape
        q, k, v = (
            x.reshape(batch, height // 7, 7, width // 7, 7, heads, head_dim)
            .permute(0, 1, 3, 5, 2, 4, 6)
            .reshape(-1, heads, 49, head_dim)
            for x in (q, k, v)
        )
        out = F.scaled_dot_product_attention(q, k, v, bias).view(batch, height // 7, width // 7, heads, 7, 7, head_dim)
        return out.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, height, width, heads, head_dim)

    attend.biases = [bias]
    return attend


OPERATORS = {
    'focal': Implementation('Focal (ours)', _focal_operator('auto')),
    **{f'focal_{name}': Implementation(f'Focal, {name}', _focal_operator(name)) for name in BACKENDS},
    'roll_unfold': Implementation('Focal, roll + unfold', _roll_unfold_operator),
    'flex_attention': Implementation('Focal, FlexAttention', flex_operator, 'torch.nn.attention.flex_attention'),
    'window_sdpa': Implementation("Swin's windows, SDPA", _window_operator),
}


def implementations(what: str) -> dict[str, Implementation]:
    """Returns name → implementation for 'backbone' or 'attention'."""
    return BACKBONES if what == 'backbone' else OPERATORS


def import_error(implementation: Implementation) -> str | None:
    """Returns why the library of an implementation cannot be imported; None if it can."""
    try:
        importlib.import_module(implementation.needs)
    except Exception as error:  # a broken library raises anything
        return first_line(error)
    return None


def first_line(error: BaseException) -> str:
    """Formats an error as its type and the first line of its message."""
    message = str(error).strip().splitlines()
    return f'{type(error).__name__}: {message[0]}' if message else type(error).__name__
