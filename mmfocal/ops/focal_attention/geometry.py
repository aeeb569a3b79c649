"""Which keys a window sees, and which of them are masked: written once, for every backend.

Names and shapes: `n` windows, `t` = window_size² tokens in a window, `keys` keys per window. The keys of a window are
ordered: its own t tokens; its ring, the rest of the (window_size + 2·expand_size)² region around it, row-major; for
each pooled level the square region of pooled tokens, row-major.
"""

import functools
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

POOLED_MASK = -100.0  # what the released code adds to the logit of a pooled position outside the map
_CACHE_SIZE = 128  # multi-scale training: tens of shapes times four stages, up to a few MB each

Value = TypeVar('Value')


@dataclass(frozen=True)
class Layout:
    """The attention pattern of one stage, independent of the map's size (the paper's section 3.2).

    Args:
        window_size: Side of a window (s_p), in tokens. Defaults to 7.
        expand_size: Tokens that the fine level reaches beyond each side of the window, 0 for no ring. Defaults to 3.
        focal_window: Side of a window's region at the first pooled level (s_r), in pooled tokens, odd; at level l it is
            focal_window + 2^l − 1. Defaults to 7.
        pooled_levels: Number of pooled levels (the paper's L less one). Defaults to 1.
        border: What the fine level sees beyond the map: 'wrap', its opposite edge, as in the released code; 'mask',
            nothing. Defaults to 'wrap'.
        shifted: Whether the map was rolled by −(window_size // 2) on both axes: tokens that only the roll brought into
            one window do not see each other there (Swin's mask). Defaults to False.

    Raises:
        ValueError: If a number is out of range, or two do not fit together.
    """

    window_size: int = 7
    expand_size: int = 3
    focal_window: int = 7
    pooled_levels: int = 1
    border: str = 'wrap'
    shifted: bool = False

    def __post_init__(self) -> None:
        for name, least in (('window_size', 1), ('expand_size', 0), ('focal_window', 1), ('pooled_levels', 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f'{name} must be an integer of at least {least}, got {value!r}')
        if self.expand_size > self.window_size:
            raise ValueError(f'expand_size must not exceed window_size={self.window_size}, got {self.expand_size}')
        if self.focal_window % 2 == 0:
            raise ValueError(f'focal_window must be odd, got {self.focal_window}')
        if self.pooled_levels and self.window_size < 2 ** (self.pooled_levels - 1):
            raise ValueError(
                f'window_size={self.window_size} is too small for {self.pooled_levels} pooled levels: '
                f'the last would pool less than one token'
            )
        if self.border not in ('wrap', 'mask'):
            raise ValueError(f"border must be 'wrap' or 'mask', got {self.border!r}")

    @property
    def tokens(self) -> int:
        """Tokens in a window."""
        return self.window_size**2

    @property
    def ring(self) -> int:
        """Tokens of the fine level around a window."""
        return (self.window_size + 2 * self.expand_size) ** 2 - self.tokens

    def region(self, level: int) -> int:
        """Side of a window's region at pooled level `level`, 0-based."""
        return self.focal_window + 2**level - 1

    @property
    def keys(self) -> int:
        """Keys of a window."""
        return self.tokens + self.ring + sum(self.region(k) ** 2 for k in range(self.pooled_levels))

    def pooled_size(self, height: int, width: int, level: int) -> tuple[int, int]:
        """Height and width of a padded map's pooled tokens at `level`."""
        return height // self.window_size * 2**level, width // self.window_size * 2**level

    def pooled_windows(self, height: int, width: int, level: int) -> tuple[int, int, int]:
        """Side of the sub-windows that are pooled at `level`, and top and left of the first, in tokens of a padded map.

        If the side does not divide the window size, the sub-windows are centred on the map.
        """
        side = self.window_size // 2**level
        rows, cols = self.pooled_size(height, width, level)
        return side, (height - rows * side) // 2, (width - cols * side) // 2

    def positions(self, height: int, width: int) -> int:
        """Number of tokens of a padded map and its pooled levels."""
        return height * width + sum(math.prod(self.pooled_size(height, width, k)) for k in range(self.pooled_levels))


@dataclass(frozen=True)
class Geometry:
    """A layout on a map of one size.

    Attributes:
        key_index: (n, keys), int64, windows in row-major order: positions in `all_tokens`, which are the map's
            height·width tokens, those of each pooled level, and last a token of zeros, which stands for everything
            outside the map.
        mask: (n, keys), float32, added to the logits: 0, −100 or −inf.
        shift_mask: (4, t, t), float32, added to the logits of a window's own tokens; None without a shift.
        shift_kind: (n,), int64, which of the four masks a window takes: 0 inside the map, 1 in the last column of
            windows, 2 in the last row, 3 in both; None without a shift.
    """

    key_index: Tensor
    mask: Tensor
    shift_mask: Tensor | None = None
    shift_kind: Tensor | None = None


def cached_per_shape(
    compute: Callable[[Layout, int, int, torch.device], Value],
) -> Callable[[Layout, int, int, torch.device], Value]:
    """Caches what `compute(layout, height, width, device)` returns for the most recent shapes; callers share it."""
    cache: OrderedDict[tuple, Value] = OrderedDict()

    @functools.wraps(compute)
    def cached(layout: Layout, height: int, width: int, device: torch.device) -> Value:
        key = (layout, height, width, device)
        if key not in cache:
            with torch.inference_mode(False):  # else a later training step could not save these tensors for backward
                cache[key] = compute(layout, height, width, device)
            while len(cache) > _CACHE_SIZE:
                cache.popitem(last=False)
        cache.move_to_end(key)
        return cache[key]

    return cached


def get_geometry(layout: Layout, height: int, width: int, x: Tensor) -> Geometry:
    """Returns the geometry of `layout` on a padded map, computed once per shape.

    Args:
        layout: The attention pattern.
        height: Height of the map, a multiple of the window size.
        width: Width of the map, likewise.
        x: Any tensor of the computation; the geometry is on its device.

    Returns:
        The geometry, which callers share and must not write to.
    """
    # traced, fake or functorch's tensors must not outlive their trace
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active()
    if traced or type(x) not in (Tensor, torch.nn.Parameter):
        return _compute(layout, height, width, x.device)
    return _compute_cached(layout, height, width, x.device)


def _compute(layout: Layout, height: int, width: int, device: torch.device) -> Geometry:
    ws, e = layout.window_size, layout.expand_size
    rows, cols = height // ws, width // ws

    # fine level: the whole region, (rows, cols, ws + 2e, ws + 2e), then the window's own tokens before its ring
    offsets = torch.arange(-e, ws + e, device=device)
    own = (offsets >= 0) & (offsets < ws)
    index, seen = _region_index(
        _fine_axis(rows, ws, offsets, own, layout.border), _fine_axis(cols, ws, offsets, own, layout.border)
    )
    order = own_tokens_first(layout, device)
    outside = layout.positions(height, width)
    index, seen = index[:, order], seen[:, order]
    indices = [index.masked_fill(~seen, outside)]
    masks = [torch.zeros(index.shape, device=device).masked_fill(~seen, float('-inf'))]

    # pooled levels
    base = height * width
    for level in range(layout.pooled_levels):
        half = layout.focal_window // 2
        offsets = torch.arange(-half, layout.region(level) - half, device=device)
        axes = [_pooled_axis(count, 2**level, offsets) for count in (rows, cols)]
        index, seen = _region_index(*axes)
        indices.append((index + base).masked_fill(~seen, outside))
        masks.append(torch.zeros(index.shape, device=device).masked_fill(~seen, POOLED_MASK))
        base += math.prod(layout.pooled_size(height, width, level))

    shift_mask, shift_kind = _shift_mask(rows, cols, ws, device) if layout.shifted else (None, None)
    return Geometry(torch.cat(indices, -1), torch.cat(masks, -1), shift_mask, shift_kind)


_compute_cached = cached_per_shape(_compute)


Axis = tuple[Tensor, Tensor, int]


def _fine_axis(count: int, ws: int, offsets: Tensor, own: Tensor, border: str) -> Axis:
    """Returns positions along one axis and which are seen, both (windows, region), and the length of the axis."""
    position = torch.arange(count, device=offsets.device)[:, None] * ws + offsets
    length = count * ws
    if border == 'mask':
        seen = (position >= 0) & (position < length)
    else:  # where one window spans the axis, wrapping would bring its own tokens back
        seen = (own | (count > 1)).expand(count, -1)
    return position % length, seen, length


def _pooled_axis(count: int, per_window: int, offsets: Tensor) -> Axis:
    position = torch.arange(count, device=offsets.device)[:, None] * per_window + offsets
    length = count * per_window
    return position, (position >= 0) & (position < length), length


def _region_index(row_axis: Axis, col_axis: Axis) -> tuple[Tensor, Tensor]:
    """Returns indices into the row-major map and which are seen, both (windows, region²)."""
    (row, row_seen, _), (col, col_seen, width) = row_axis, col_axis
    n = row.shape[0] * col.shape[0]  # `len` would be a constant in a trace
    index = row[:, None, :, None] * width + col[None, :, None, :]
    seen = row_seen[:, None, :, None] & col_seen[None, :, None, :]
    return index.reshape(n, -1), seen.reshape(n, -1)


def _shift_mask(rows: int, cols: int, ws: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns Swin's masks on a rolled map, (4, t, t), and which of the four each window takes, (n,)."""
    # the last window holds tokens of the map's end and, after ws // 2 of them rolled round, of its start
    rolled = torch.arange(ws, device=device) >= ws - ws // 2
    parts = torch.stack(
        [(last_row * rolled[:, None] * 2 + last_col * rolled).flatten() for last_row in (0, 1) for last_col in (0, 1)]
    )
    mask = (parts[:, :, None] != parts[:, None, :]) * POOLED_MASK
    in_last_row = torch.arange(rows, device=device) == rows - 1
    in_last_col = torch.arange(cols, device=device) == cols - 1
    return mask, (in_last_row[:, None] * 2 + in_last_col).flatten()


def own_tokens_first(layout: Layout, device: torch.device) -> Tensor:
    """Returns the positions of a window's row-major fine region: its own tokens, then those of its ring."""
    offsets = torch.arange(-layout.expand_size, layout.window_size + layout.expand_size, device=device)
    own = (offsets >= 0) & (offsets < layout.window_size)
    in_ring = (~(own[:, None] & own)).flatten()
    # keys that differ, as ONNX has no stable sort
    return torch.argsort(in_ring * in_ring.numel() + torch.arange(in_ring.numel(), device=device))


def relative_index(window_size: int, region: int, device: torch.device | None = None) -> Tensor:
    """Returns the rows of a relative bias table for the queries of a window and the keys of a region.

    Args:
        window_size: Side of a window, in tokens.
        region: Side of the region, ≥ 1; the table has (window_size + region − 1)² rows.
        device: Where to put the index.

    Returns:
        (window_size², region²), int64: (row_q − row_k + region − 1)·(window_size + region − 1) + col_q − col_k +
        region − 1.
    """
    queries, keys = torch.arange(window_size, device=device), torch.arange(region, device=device)
    difference = queries[:, None] - keys + region - 1
    index = difference[:, None, :, None] * (window_size + region - 1) + difference[None, :, None, :]
    return index.reshape(window_size**2, region**2)


def window_partition(x: Tensor, window_size: int) -> Tensor:
    """(B, H, W, …) → (B, n, window_size², …), windows and their tokens in row-major order."""
    batch, height, width, *rest = x.shape
    x = x.reshape(batch, height // window_size, window_size, width // window_size, window_size, *rest).transpose(2, 3)
    return x.reshape(batch, -1, window_size**2, *rest)


def window_reverse(windows: Tensor, window_size: int, height: int, width: int) -> Tensor:
    """(B, n, window_size², …) → (B, height, width, …), the inverse of `window_partition`."""
    batch, _, _, *rest = windows.shape
    x = windows.reshape(batch, height // window_size, width // window_size, window_size, window_size, *rest)
    return x.transpose(2, 3).reshape(batch, height, width, *rest)


def all_tokens(fine: Tensor, pooled: Sequence[Tensor]) -> Tensor:
    """Returns the list of tokens that `Geometry.key_index` points into.

    Args:
        fine: (B, H, W, heads, head_dim).
        pooled: (B, h, w, heads, head_dim), one per level.

    Returns:
        (B, H·W + Σ h·w + 1, heads, head_dim); the last token is zero.
    """
    outside = fine.new_zeros(fine.shape[0], 1, *fine.shape[3:])
    return torch.cat([fine.flatten(1, 2), *(level.flatten(1, 2) for level in pooled), outside], 1)
