"""What `tools/benchmark.py speed` measures against each other: backbones, and attention operators alone."""

import importlib
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmfocal.benchmark.speed.roll_unfold import (
    neighbor_columns,
    neighbor_table,
    roll_unfold_attention,
    roll_unfold_backbone,
)
from mmfocal.errors import ConfigError
from mmfocal.models import FocalTransformer
from mmfocal.ops import Layout, focal_attention, focal_attention_flops
from mmfocal.ops.focal_attention import BACKENDS

# 'nano' is for trying the command
ARCHS = {**FocalTransformer.archs, 'nano': dict(embed_dims=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))}
FOCAL_WINDOWS = (7, 5, 3, 1)
EXPAND_SIZE = 3


@dataclass(frozen=True)
class Case:
    """What one comparison measures.

    Args:
        what (str): 'backbone', or 'attention', the operator alone.
        mode (str): 'forward', or 'train', forward and backward.
        height (int): Image height, in pixels.
        width (int): Image width, in pixels.
        batch (int): Images.
        dtype (str): 'float32', 'bfloat16' or 'float16'. A backbone's weights are cast for inference; training is mixed precision.
        device (str): 'cpu' or 'cuda'.
        arch (str): A key of `ARCHS`.
        compiled (bool): Through torch.compile.
        stage (int, optional): For 'attention' the stage, 0 to 3, whose map is attended to.
    """

    what: str
    mode: str
    height: int
    width: int
    batch: int = 1
    dtype: str = 'float32'
    device: str = 'cpu'
    arch: str = 'tiny'
    compiled: bool = False
    stage: int | None = None

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    @property
    def layout(self) -> Layout:
        """The stage's attention pattern."""
        return Layout(7, EXPAND_SIZE, FOCAL_WINDOWS[self.stage], 1)

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width of the stage's map, in tokens, padded to whole windows."""
        return tuple(-(-side // (4 * 2**self.stage) // 7) * 7 for side in (self.height, self.width))

    @property
    def heads(self) -> tuple[int, int]:
        """The stage's heads, and the channels of one."""
        heads = ARCHS[self.arch]['num_heads'][self.stage]
        return heads, ARCHS[self.arch]['embed_dims'] * 2**self.stage // heads

    def __str__(self):
        parts = [self.what, self.mode, f'{self.height}×{self.width}', f'batch {self.batch}', self.dtype, self.arch]
        if self.stage is not None:
            parts.insert(1, f'stage {self.stage + 1}')
        return ', '.join(parts + ['compiled'] * self.compiled)


@dataclass(frozen=True)
class Contender:
    """One of the things compared.

    Args:
        label (str): For tables and plots.
        build (Callable): (case) → nn.Module for a backbone; (case, bias) → a function of (q, k, v, pooled_kv) for an operator.
        needs (str): A module that must be importable.
        casts (bool): Whether its weights can be cast to half precision; if not, its inference is mixed precision too.
    """

    label: str
    build: Callable
    needs: str = 'mmfocal'
    casts: bool = True


def _check_backend(backend, case):
    if backend == 'triton' and case.device == 'cpu':  # where only its interpreter runs, for tests
        raise ConfigError('the Triton backend needs a CUDA device')


def _focal_backbone(backend):
    def build(case):
        _check_backend(backend, case)
        return FocalTransformer(arch=ARCHS[case.arch], drop_path_rate=0.0, attention_backend=backend)

    return build


def _roll_unfold_backbone(case):
    return roll_unfold_backbone(arch=ARCHS[case.arch], drop_path_rate=0.0)


def _mmdet_swin(case):
    from mmdet.models.backbones.swin import SwinTransformer

    return SwinTransformer(**ARCHS[case.arch], drop_path_rate=0.0)


def _timm_swin(fused):
    def build(case):
        import timm
        from timm.layers import set_fused_attn

        set_fused_attn(
            True, experimental=fused
        )  # its window attention counts as experimental: by itself it is not fused
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
    """The four stages' maps of torchvision's classifier, (B, h, w, C) as they are, without output norms."""

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


def _torchvision_swin(case):
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


BACKBONES = {
    'focal': Contender('Focal (ours)', _focal_backbone('auto')),
    **{f'focal_{name}': Contender(f'Focal, {name}', _focal_backbone(name)) for name in BACKENDS},
    'roll_unfold': Contender('Focal, roll + unfold', _roll_unfold_backbone),
    # its masks stay float32 when its weights are cast
    'swin_mmdet': Contender('Swin, MMDetection', _mmdet_swin, 'mmdet.models.backbones.swin', casts=False),
    'swin_timm': Contender('Swin, timm', _timm_swin(False), 'timm'),
    'swin_timm_fused': Contender('Swin, timm, fused', _timm_swin(True), 'timm'),
    'swin_torchvision': Contender('Swin, torchvision', _torchvision_swin, 'torchvision.models'),
}


def _focal_operator(backend):
    def build(case, bias):
        _check_backend(backend, case)
        layout = case.layout
        return lambda q, k, v, pooled_kv: focal_attention(q, k, v, pooled_kv, bias, layout, backend=backend)

    return build


def _roll_unfold_operator(case, bias):
    layout = case.layout
    own, ring, pooled = bias.detach().split([layout.tokens, layout.ring, layout.region(0) ** 2], -1)
    biases = [part.clone().requires_grad_(bias.requires_grad) for part in (own, neighbor_table(ring, layout), pooled)]
    kept = neighbor_columns(layout)[0].to(bias.device)
    attend = lambda q, k, v, pooled_kv: roll_unfold_attention(q, k, v, pooled_kv, biases, layout, kept)  # noqa: E731
    attend.biases = biases
    return attend


def _window_operator(case, bias):
    """Swin's attention without its shift: PyTorch's fused attention within each window, for context."""
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
    'focal': Contender('Focal (ours)', _focal_operator('auto')),
    **{f'focal_{name}': Contender(f'Focal, {name}', _focal_operator(name)) for name in BACKENDS},
    'roll_unfold': Contender('Focal, roll + unfold', _roll_unfold_operator),
    'window_sdpa': Contender("Swin's windows, SDPA", _window_operator),
}


def contenders(what: str) -> dict:
    """Name → `Contender`, for 'backbone' or 'attention'."""
    return BACKBONES if what == 'backbone' else OPERATORS


def absence(contender: Contender) -> str | None:
    """Why a contender cannot take part here: its library's import error in one line; None if it can."""
    try:
        importlib.import_module(contender.needs)
    except Exception as error:  # a library that is there but broken raises what it likes
        return first_line(error)
    return None


def first_line(error: BaseException) -> str:
    """An error in one line: its type, and the first line of what it says."""
    said = str(error).strip().splitlines()
    return f'{type(error).__name__}: {said[0]}' if said else type(error).__name__


def make_step(contender: Contender, case: Case) -> Callable[[], None]:
    """Builds a contender and its inputs: calling the result runs it once.

    Args:
        contender (Contender): A backbone or an operator, as the case says.
        case (Case): What to run.

    Returns:
        Callable[[], None]: One inference, or one forward and backward that leaves no gradients behind.
    """
    torch.manual_seed(0)
    return (_backbone_step if case.what == 'backbone' else _operator_step)(contender, case)


def _backbone_step(contender, case):
    images = torch.randn(case.batch, 3, case.height, case.width, device=case.device)
    model = contender.build(case).to(case.device)
    model.train(case.mode == 'train')
    cast = case.mode == 'forward' and contender.casts
    if cast:
        model.to(case.torch_dtype)
        images = images.to(case.torch_dtype)
    run = torch.compile(model, dynamic=False) if case.compiled else model

    def mixed_precision():
        return nullcontext() if cast or case.dtype == 'float32' else torch.autocast(case.device, case.torch_dtype)

    def infer():
        with torch.inference_mode(), mixed_precision():
            run(images)

    def train():
        with mixed_precision():
            outs = run(images)
        sum(out.float().mean() for out in outs).backward()
        model.zero_grad(set_to_none=True)

    return train if case.mode == 'train' else infer


def _operator_step(contender, case):
    layout, (heads, head_dim), (height, width) = case.layout, case.heads, case.map_size

    def random(*shape):
        return torch.randn(*shape, device=case.device, dtype=case.torch_dtype, requires_grad=case.mode == 'train')

    q, k, v = (random(case.batch, height, width, heads, head_dim) for _ in range(3))
    pooled = tuple(random(case.batch, *layout.pooled_size(height, width, 0), heads, head_dim) for _ in range(2))
    bias = random(heads, layout.tokens, layout.keys)
    attend = contender.build(case, bias)
    inputs = [q, k, v, *pooled, *getattr(attend, 'biases', [bias])]
    gradient = torch.randn_like(q)
    run = torch.compile(attend, dynamic=False) if case.compiled else attend

    def infer():
        with torch.inference_mode():
            run(q, k, v, [pooled])

    def train():
        torch.autograd.grad(
            run(q, k, v, [pooled]), inputs, gradient, allow_unused=True
        )  # plain windows have no pooled tokens

    return train if case.mode == 'train' else infer


def operator_work(case: Case) -> tuple[int, int]:
    """What an attention case must at least do.

    Args:
        case (Case): With `what` 'attention'.

    Returns:
        Tuple[int, int]: Floating-point operations of its matrix products, two forward and four more backward (recomputed logits
        do not count); bytes of its inputs read once, its output written once, and the same for their gradients.
    """
    layout, (heads, head_dim), (height, width) = case.layout, case.heads, case.map_size
    channels = case.batch * heads * head_dim
    output = channels * height * width
    inputs = (
        3 * output
        + 2 * channels * math.prod(layout.pooled_size(height, width, 0))
        + heads * layout.tokens * layout.keys
    )
    flops = focal_attention_flops((case.batch, height, width, heads, head_dim), layout)
    if (
        case.mode == 'train'
    ):  # backward reads inputs, output and its gradient once more, and writes the inputs' gradients
        return 3 * flops, 3 * (inputs + output) * case.torch_dtype.itemsize
    return flops, (inputs + output) * case.torch_dtype.itemsize
