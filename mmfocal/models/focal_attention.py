from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental import symbolic_shapes

from mmfocal.models.linear import linear
from mmfocal.ops.focal_attention import Layout, focal_attention_qkvpacked, relative_index

_COMPARES_SYMBOLS = hasattr(symbolic_shapes, 'sym_and')  # PyTorch 2.6 does not compile `statically_known_true`


class FocalAttention(nn.Module):
    """Focal self-attention with its projections, pooling and biases, for maps of any size (the paper's section 3.2).

    See `FocalBlock` for the arguments.
    """

    bias_index0: Tensor

    def __init__(
        self,
        dim: int,
        num_heads: int,
        layout: Layout,
        shifts: bool,
        focal_pool: str,
        qkv_bias: bool,
        drop: float,
        attn_drop: float,
        backend: str,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.layout, self.shifted_layout = layout, replace(layout, shifted=True)
        self.shift = layout.window_size // 2 if shifts else 0
        self.attn_drop = attn_drop
        self.backend = backend
        ws = layout.window_size
        regions = [layout.region(k) for k in range(layout.pooled_levels)]

        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(drop)
        self.pool_layers = nn.ModuleList()
        if focal_pool == 'fc':
            self.pool_layers.extend(SubWindowPool(ws // 2**k) for k in range(layout.pooled_levels))
        self.window_bias_table = nn.Parameter(torch.empty(num_heads, (2 * ws - 1) ** 2))
        self.ring_bias_table = nn.Parameter(torch.empty(num_heads, ws**2, layout.ring)) if layout.ring else None
        self.pooled_bias_tables = nn.ParameterList(torch.empty(num_heads, (ws + r - 1) ** 2) for r in regions)
        for level, region in enumerate([ws] + regions):
            self.register_buffer(f'bias_index{level}', relative_index(ws, region), persistent=False)
        self.reset_parameters()

    def reset_parameters(self, released: bool = False) -> None:
        """Initializes the parameters.

        Args:
            released: Whether as the released code does: the window's table starts at zero, and pooling with N(0, 0.02)
                in place of the mean. Defaults to False.
        """
        for weight in (
            self.qkv.weight,
            self.proj.weight,
            self.window_bias_table,
            self.ring_bias_table,
            *self.pooled_bias_tables,
        ):
            if weight is not None:
                nn.init.trunc_normal_(weight, std=0.02)
        for layer in (self.qkv, self.proj):
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        if released:
            nn.init.zeros_(self.window_bias_table)
            for name, weight in self.pool_layers.named_parameters():
                if name.endswith('weight'):
                    nn.init.trunc_normal_(weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) → (B, h, w, C)."""
        h, w = x.shape[1:3]
        qkv, pooled_kv, layout = self.project(x)
        x = focal_attention_qkvpacked(
            qkv,
            pooled_kv,
            self.bias(),
            layout,
            dropout_p=self.attn_drop if self.training else 0.0,
            backend=self.backend,
        )

        x = x.flatten(3)
        if layout.shifted:
            x = x.roll((self.shift, self.shift), (1, 2))
        return self.proj_drop(linear(self.proj, crop(x, h, w)))

    def project(self, x: Tensor) -> tuple[Tensor, list[Tensor], Layout]:
        """Computes what the operator takes: pads the map to whole windows, shifts it, pools and projects it.

        Args:
            x: (B, h, w, C).

        Returns:
            q, k and v, (B, H, W, 3, heads, head_dim); k and v of each pooled level,
            (B, rows, cols, 2, heads, head_dim); the layout, `shifted` if the map was rolled by −`shift`.
        """
        h, w, dim = x.shape[1:]
        ws, heads = self.layout.window_size, self.num_heads
        height, width = (h + ws - 1) // ws * ws, (w + ws - 1) // ws * ws
        if may_differ((height, width), (h, w)):
            x = F.pad(x, (0, 0, 0, width - w, 0, height - h))
        shift = self.shift if self.shift and min(height, width) > ws else 0
        if shift:
            x = x.roll((-shift, -shift), (1, 2))

        qkv = linear(self.qkv, x).reshape(x.shape[0], height, width, 3, heads, dim // heads)
        pooled_kv = []
        for level in range(self.layout.pooled_levels):
            pooled = linear(self.qkv, self._pool(x, level)).unflatten(-1, (3, heads, dim // heads))
            pooled_kv.append(pooled[:, :, :, 1:])
        return qkv, pooled_kv, self.shifted_layout if shift else self.layout

    def _pool(self, x: Tensor, level: int) -> Tensor:
        """(B, H, W, C) → (B, H/window_size·2^level, W/window_size·2^level, C): one token per sub-window."""
        rows, cols = self.layout.pooled_size(x.shape[1], x.shape[2], level)
        side, top, left = self.layout.pooled_windows(x.shape[1], x.shape[2], level)
        x = x[:, top : top + rows * side, left : left + cols * side]
        x = x.unflatten(2, (cols, side)).unflatten(1, (rows, side))  # (B, rows, side, cols, side, C)
        return self.pool_layers[level](x) if self.pool_layers else x.mean((2, 4))

    def bias(self) -> Tensor:
        """Returns the bias of the logits, (heads, window_size², keys)."""
        biases = [self.window_bias_table[:, self.bias_index0]]
        if self.ring_bias_table is not None:
            biases.append(self.ring_bias_table)
        for level, table in enumerate(self.pooled_bias_tables, 1):
            biases.append(table[:, getattr(self, f'bias_index{level}')])
        return torch.cat(biases, -1)


def may_differ(sizes: Sequence[int], others: Sequence[int]) -> bool:
    """Returns whether sizes differ, or may differ for other images that a trace or a compiled graph is for."""
    if torch.jit.is_tracing():
        return True
    if torch.compiler.is_compiling() and _COMPARES_SYMBOLS:  # else the model is compiled once for each answer
        return not all(symbolic_shapes.statically_known_true(a == b) for a, b in zip(sizes, others))
    return tuple(sizes) != tuple(others)


def crop(x: Tensor, height: int, width: int) -> Tensor:
    """(B, H, W, …) → (B, height, width, …), the top left part."""
    if torch.compiler.is_compiling() and not all(map(_is_known, x.shape[1:3], (height, width))):
        # not a view: whether that is contiguous depends on the sizes too
        rows, cols = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
        return x.index_select(1, rows).index_select(2, cols)
    return x[:, :height, :width]


def _is_known(size: int, other: int) -> bool:
    """Returns whether a compiled graph is for equal sizes only, or for different ones only."""
    if not _COMPARES_SYMBOLS:
        return True
    return symbolic_shapes.statically_known_true(size == other) or symbolic_shapes.statically_known_true(size != other)


class SubWindowPool(nn.Module):
    """Pools sub-windows with learned weights, the same for all channels, which start as the mean.

    Args:
        side: Side of a sub-window, in tokens.
    """

    def __init__(self, side: int):
        super().__init__()
        self.side = side
        self.weight = nn.Parameter(torch.full((1, side**2), 1 / side**2))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, rows, side, cols, side, C) → (B, rows, cols, C)."""
        return torch.einsum('brichj,ij->brch', x.transpose(4, 5), self.weight.view(self.side, self.side)) + self.bias
