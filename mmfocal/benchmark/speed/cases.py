"""What is measured: a backbone or the attention operator, at one image size, in one mode."""

import math
from dataclasses import dataclass

import torch

from mmfocal.models import FocalTransformer
from mmfocal.ops import Layout, focal_attention_flops

# 'nano' makes a quick run of the command possible
ARCHS = {**FocalTransformer.archs, 'nano': dict(embed_dims=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))}
FOCAL_WINDOWS = (7, 5, 3, 1)
EXPAND_SIZE = 3
SCALING_SIDES = (224, 448, 672, 896, 1120, 1344, 1792, 2048)


@dataclass(frozen=True)
class Case:
    """What one comparison measures.

    Args:
        what: 'backbone', or 'attention' for the operator alone.
        mode: 'forward', or 'train' for forward and backward.
        height: Image height, in pixels.
        width: Image width, in pixels.
        batch: Images per batch.
        dtype: 'float32', 'bfloat16' or 'float16'. Inference casts a backbone's weights; training uses mixed precision.
        autocast: Use mixed precision for inference too.
        device: 'cpu' or 'cuda'.
        arch: A key of `ARCHS`.
        compiled: Use torch.compile.
        stage: The stage, 0 to 3, whose map an 'attention' case attends to.
    """

    what: str
    mode: str
    height: int
    width: int
    batch: int = 1
    dtype: str = 'float32'
    autocast: bool = False
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
        height, width = (-(-side // (4 * 2**self.stage) // 7) * 7 for side in (self.height, self.width))
        return height, width

    @property
    def heads(self) -> tuple[int, int]:
        """The stage's number of heads, and the channels per head."""
        heads = ARCHS[self.arch]['num_heads'][self.stage]
        return heads, ARCHS[self.arch]['embed_dims'] * 2**self.stage // heads

    def __str__(self) -> str:
        parts = [self.what, self.mode, f'{self.height}×{self.width}', f'batch {self.batch}', self.dtype, self.arch]
        if self.stage is not None:
            parts.insert(1, f'stage {self.stage + 1}')
        return ', '.join(parts + ['autocast'] * self.autocast + ['compiled'] * self.compiled)


def preset_cases(device: str) -> list[Case]:
    """Returns the cases of `--all` for 'cpu' or 'cuda'."""
    if device == 'cpu':
        return [
            Case('backbone', 'forward', 800, 1216),
            Case('backbone', 'forward', 224, 224, batch=8),
            Case('backbone', 'train', 448, 448, batch=2),
        ]
    half = 'bfloat16' if torch.cuda.is_bf16_supported(including_emulation=False) else 'float16'
    common = dict(height=800, width=1216, batch=8, device='cuda')
    cases = [Case('backbone', 'forward', dtype=dtype, **common) for dtype in dict.fromkeys((half, 'float16'))]
    cases.append(Case('backbone', 'train', dtype=half, **common))
    for mode in ('forward', 'train'):
        cases += [Case('attention', mode, dtype=half, stage=stage, **common) for stage in range(4)]
    return cases


def operator_work(case: Case) -> tuple[int, int]:
    """Counts the least work of an 'attention' case.

    Returns:
        Floating-point operations of the matrix products: two forward and four more backward, without recomputed logits.
        Bytes of the inputs read once and the output written once, and of their gradients.
    """
    layout, (heads, head_dim), (height, width) = case.layout, case.heads, case.map_size
    channels = case.batch * heads * head_dim
    output = channels * height * width
    pooled = 2 * channels * math.prod(layout.pooled_size(height, width, 0))
    inputs = 3 * output + pooled + heads * layout.tokens * layout.keys
    flops = focal_attention_flops((case.batch, height, width, heads, head_dim), layout)
    size = (inputs + output) * case.torch_dtype.itemsize
    if case.mode == 'train':  # backward reads inputs, output and its gradient, and writes the inputs' gradients
        return 3 * flops, 3 * size
    return flops, size
