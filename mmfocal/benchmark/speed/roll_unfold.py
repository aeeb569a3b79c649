"""Focal attention as the paper's released code computes it: the baseline of the operator's speed.

Four rolled copies of keys and values form a window's ring; tokens that two copies share count twice. `F.unfold` forms
the pooled regions. Each group of keys has its own matrix product, and all logits are in memory at once. There is no
window shift.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmfocal.models import FocalTransformer
from mmfocal.ops.focal_attention import Layout, relative_index

MASK = -100.0  # the released code adds it to the logits of keys outside the map


def roll_unfold_backbone(**kwargs) -> FocalTransformer:
    """Builds a backbone whose attention is roll + unfold.

    Args:
        **kwargs: Of `FocalTransformer`, without a window shift.

    Returns:
        The same function with the same weights, except for its ring tables, which have the released shape.
    """
    return use_roll_unfold(FocalTransformer(**kwargs))


def use_roll_unfold(backbone: FocalTransformer) -> FocalTransformer:
    """Replaces a backbone's blocks by plain ones with roll + unfold attention and the same weights, in place.

    Raises:
        ValueError: If it shifts its windows, or a ring is wider than half a window.
    """
    for stage in backbone.stages:
        stage.blocks = nn.ModuleList(PlainBlock(block) for block in stage.blocks)
    return backbone


class PlainBlock(nn.Module):
    """A block without our optimisations, dropout and layer scale; takes over the weights of `block`."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.attn = RollUnfoldAttention(block.attn)
        self.mlp = nn.Sequential(block.mlp.fc1, nn.GELU(), block.mlp.fc2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) → (B, h, w, C)."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class RollUnfoldAttention(nn.Module):
    """Roll + unfold attention with its projections; takes over the weights of `attn`."""

    def __init__(self, attn: nn.Module):
        super().__init__()
        if attn.shift:
            raise ValueError('roll + unfold: has no window shift; leave out use_shift')
        self.num_heads = attn.num_heads
        self.layout = attn.layout
        self.qkv, self.proj, self.pool_layers = attn.qkv, attn.proj, attn.pool_layers
        self.window_bias_table, self.pooled_bias_tables = attn.window_bias_table, attn.pooled_bias_tables
        self.neighbor_bias_table = None
        if attn.ring_bias_table is not None:
            self.neighbor_bias_table = nn.Parameter(neighbor_table(attn.ring_bias_table.detach(), self.layout))
        self.register_buffer('kept', neighbor_columns(self.layout)[0], persistent=False)
        for level, side in enumerate(
            [self.layout.window_size, *map(self.layout.region, range(self.layout.pooled_levels))]
        ):
            self.register_buffer(f'bias_index{level}', relative_index(self.layout.window_size, side), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) → (B, h, w, C)."""
        h, w, dim = x.shape[1:]
        ws = self.layout.window_size
        x = F.pad(x, (0, 0, 0, -w % ws, 0, -h % ws))
        q, k, v = self._heads(self.qkv(x))
        pooled_kv = [self._heads(self.qkv(self._pool(x, level)))[1:] for level in range(self.layout.pooled_levels)]
        x = roll_unfold_attention(q, k, v, pooled_kv, self._biases(), self.layout, self.kept)
        return self.proj(x.flatten(3)[:, :h, :w])

    def _heads(self, qkv: Tensor) -> Tensor:
        """(B, H, W, 3·C) → (3, B, H, W, heads, head_dim)."""
        return qkv.unflatten(-1, (3, self.num_heads, -1)).permute(3, 0, 1, 2, 4, 5)

    def _pool(self, x: Tensor, level: int) -> Tensor:
        """(B, H, W, C) → (B, H/window_size·2^level, W/window_size·2^level, C)."""
        side = self.layout.window_size // 2**level
        rows, cols = self.layout.pooled_size(x.shape[1], x.shape[2], level)
        top, left = (x.shape[1] - rows * side) // 2, (x.shape[2] - cols * side) // 2
        x = (
            x[:, top : top + rows * side, left : left + cols * side]
            .unflatten(2, (cols, side))
            .unflatten(1, (rows, side))
        )
        x = x.permute(0, 1, 3, 5, 2, 4).flatten(4)  # (B, rows, cols, C, side²)
        if not len(self.pool_layers):
            return x.mean(-1)
        return F.linear(x, self.pool_layers[level].weight, self.pool_layers[level].bias).squeeze(-1)

    def _biases(self) -> list[Tensor]:
        """Returns (heads, window_size², keys) for each group of keys."""
        biases = [self.window_bias_table[:, self.bias_index0]]
        if self.neighbor_bias_table is not None:
            biases.append(self.neighbor_bias_table)
        return biases + [
            table[:, getattr(self, f'bias_index{level}')] for level, table in enumerate(self.pooled_bias_tables, 1)
        ]


def roll_unfold_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pooled_kv: Sequence[tuple[Tensor, Tensor]],
    biases: Sequence[Tensor],
    layout: Layout,
    kept: Tensor,
) -> Tensor:
    """Computes what `mmfocal.ops.focal_attention` computes, by roll + unfold.

    Args:
        q: Queries, (B, H, W, heads, head_dim), not yet scaled.
        k: Keys, of the same shape.
        v: Values, of the same shape.
        pooled_kv: Keys and values of each pooled level, as for `focal_attention`.
        biases: (heads, window_size², keys) for each group of keys: the window's own, the rolled copies' (if
            expand_size > 0), each pooled level's.
        layout: Windows, ring and pooled levels; no shift.
        kept: The first of `neighbor_columns(layout)`, on q's device.

    Returns:
        (B, H, W, heads, head_dim).
    """
    batch, height, width, heads, head_dim = q.shape
    ws = layout.window_size
    groups = [(_windows(k, ws), _windows(v, ws), None)]  # keys and values (B·n, heads, keys, head_dim), mask (n, keys)
    if layout.expand_size:
        groups.append((_rolled_copies(k, layout, kept), _rolled_copies(v, layout, kept), _ring_mask(q, layout, kept)))
    for level, (pooled_k, pooled_v) in enumerate(pooled_kv):
        inside = pooled_k.new_ones(1, *pooled_k.shape[1:3], 1, 1)
        mask = (_unfolded(inside, layout, level)[:, 0, :, 0] == 0) * MASK
        groups.append((_unfolded(pooled_k, layout, level), _unfolded(pooled_v, layout, level), mask.to(q.dtype)))

    queries = _windows(q * head_dim**-0.5, ws)
    logits = []
    for (keys, _, mask), bias in zip(groups, biases):
        group = queries @ keys.transpose(-2, -1) + bias
        if mask is not None:
            group = (group.unflatten(0, (batch, -1)) + mask[:, None, None]).flatten(0, 1)
        logits.append(group)
    weights = torch.cat(logits, -1).softmax(-1)
    out = weights @ torch.cat([values for _, values, _ in groups], 2)  # (B·n, heads, t, head_dim)
    out = out.view(batch, height // ws, width // ws, heads, ws, ws, head_dim)
    return out.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, height, width, heads, head_dim)


def neighbor_columns(layout: Layout) -> tuple[Tensor, Tensor]:
    """Finds the columns of the released neighbour table, 132 for window 7 and e = 3.

    Returns:
        For each column its position among the four copies' 4·window_size² tokens, and its token's place in the ring.

    Raises:
        ValueError: If the ring is wider than half a window, so that four copies do not cover it.
    """
    ws, e = layout.window_size, layout.expand_size
    if 2 * e > ws:
        raise ValueError(f'roll + unfold: four copies do not cover a ring of {e} tokens around a window of {ws}')
    row, col = torch.meshgrid(torch.arange(ws), torch.arange(ws), indexing='ij')
    row = torch.stack([row - shift for shift, _ in _shifts(e)])  # where a copy's tokens lie, seen from the window
    col = torch.stack([col - shift for _, shift in _shifts(e)])
    kept = ((row < 0) | (row >= ws) | (col < 0) | (col >= ws)).flatten().nonzero().flatten()
    side = ws + 2 * e
    ring = torch.ones(side, side, dtype=torch.long)
    ring[e : e + ws, e : e + ws] = 0
    place = (ring.flatten().cumsum(0) - 1)[(row + e) * side + col + e].flatten()
    return kept, place[kept]


def neighbor_table(ring_bias: Tensor, layout: Layout) -> Tensor:
    """Spreads a ring's biases over the released table's columns, so that two columns of one token add up to its weight.

    Args:
        ring_bias: (heads, window_size², ring), 120 keys for window 7 and e = 3.
        layout: Window size and width of the ring.

    Returns:
        (heads, window_size², columns), 132 columns.
    """
    place = neighbor_columns(layout)[1].to(ring_bias.device)
    copies = place.bincount(minlength=layout.ring)
    return ring_bias[..., place] - copies[place].to(ring_bias.dtype).log()


def _shifts(e: int) -> tuple[tuple[int, int], ...]:
    return (-e, -e), (-e, e), (e, -e), (e, e)


def _windows(x: Tensor, ws: int) -> Tensor:
    """(B, H, W, heads, head_dim) → (B·n, heads, window_size², head_dim)."""
    batch, height, width, heads, head_dim = x.shape
    x = x.reshape(batch, height // ws, ws, width // ws, ws, heads, head_dim).permute(0, 1, 3, 5, 2, 4, 6)
    return x.reshape(-1, heads, ws * ws, head_dim)


def _rolled_copies(x: Tensor, layout: Layout, kept: Tensor) -> Tensor:
    """(B, H, W, heads, head_dim) → (B·n, heads, columns, head_dim)."""
    copies = [_windows(x.roll(shift, (1, 2)), layout.window_size) for shift in _shifts(layout.expand_size)]
    return torch.cat(copies, 2)[:, :, kept]


def _ring_mask(q: Tensor, layout: Layout, kept: Tensor) -> Tensor | None:
    """Returns (n, columns): −100 for tokens that a roll brought from the opposite edge where they are hidden."""
    sides = q.shape[1:3]
    cut = [layout.border == 'mask' or side == layout.window_size for side in sides]  # by axis
    if not any(cut):
        return None
    copies = []
    for shift in _shifts(layout.expand_size):
        hidden = q.new_zeros(1, *sides, 1, 1, dtype=torch.bool)
        for axis in (0, 1):
            position = torch.arange(sides[axis], device=q.device) - shift[axis]
            beyond = (position < 0) | (position >= sides[axis])
            if cut[axis]:
                hidden = hidden | beyond.view([-1 if axis == i else 1 for i in range(-1, 4)])
        copies.append(_windows(hidden, layout.window_size)[:, 0, :, 0])
    return torch.cat(copies, 1)[:, kept].to(q.dtype) * MASK


def _unfolded(x: Tensor, layout: Layout, level: int) -> Tensor:
    """(B, h, w, heads, head_dim) → (B·n, heads, region², head_dim)."""
    batch, _, _, heads, head_dim = x.shape
    side = layout.region(level)
    x = F.unfold(
        x.flatten(3).permute(0, 3, 1, 2), side, padding=layout.focal_window // 2, stride=2**level
    )  # (B, C·region², n)
    return x.view(batch, heads, head_dim, side * side, -1).permute(0, 4, 1, 3, 2).flatten(0, 1)
