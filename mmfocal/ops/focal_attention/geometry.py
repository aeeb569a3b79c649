"""Which keys a window sees, and which of them are masked: written once, for every backend.

Names and shapes: `n` windows, `t` = window_size² tokens in a window, `keys` keys a window. A window's keys are, in this order:
its own t tokens; its ring (the (window_size + 2·expand_size)² region less the window itself, row-major); for each pooled level
the square region of pooled tokens, row-major.
"""

import functools
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

POOLED_MASK = -100.0  # what the released code adds to the logit of a pooled position outside the map


@dataclass(frozen=True)
class Layout:
    """The attention pattern of one stage, independent of the map's size.

    Args:
        window_size (int): Side of a window (s_p), in tokens.
        expand_size (int): Tokens that the fine level reaches beyond each side of the window (e).
        focal_window (int): Side of a window's region at the first pooled level (s_r), odd.
        pooled_levels (int): Number of pooled levels (the paper's L less one).
        border (str): 'wrap' or 'mask': what the fine level sees beyond the map.
        shifted (bool): Whether the map was rolled by −(window_size // 2), so that Swin's mask applies to a window's own tokens.
    """

    window_size: int = 7
    expand_size: int = 3
    focal_window: int = 7
    pooled_levels: int = 1
    border: str = 'wrap'
    shifted: bool = False

    @property
    def tokens(self) -> int:
        return self.window_size**2

    @property
    def ring(self) -> int:
        return (self.window_size + 2 * self.expand_size) ** 2 - self.tokens

    def region(self, level: int) -> int:
        """Side of a window's region at pooled level `level`, 0-based."""
        return self.focal_window + 2**level - 1

    @property
    def keys(self) -> int:
        return self.tokens + self.ring + sum(self.region(k) ** 2 for k in range(self.pooled_levels))

    def pooled_size(self, height: int, width: int, level: int) -> tuple[int, int]:
        """Height and width of a padded map's pooled tokens at `level`."""
        return height // self.window_size * 2**level, width // self.window_size * 2**level

    def positions(self, height: int, width: int) -> int:
        """How many tokens a padded map and its pooled levels have."""
        return height * width + sum(math.prod(self.pooled_size(height, width, k)) for k in range(self.pooled_levels))


@dataclass(frozen=True)
class Geometry:
    """A layout on a map of one size.

    Attributes:
        key_index (Tensor): (n, keys), int64, windows in row-major order: positions in the list of all tokens: the map's
            height·width, each pooled level's, and last one token of zeros, which stands for everything outside the map.
        mask (Tensor): (n, keys), float32, to be added to the logits: 0, −100 or −inf.
        shift_mask (Tensor, optional): (4, t, t), float32, to be added to the logits of a window's own tokens; None without a shift.
        shift_kind (Tensor, optional): (n,), int64: which of the four is a window's: 0 inside the map, 1 in its last column of
            windows, 2 in its last row, 3 in both.
    """

    key_index: Tensor
    mask: Tensor
    shift_mask: Tensor | None = None
    shift_kind: Tensor | None = None


def once_a_shape(compute: Callable) -> Callable:
    """Keeps what `compute(layout, height, width, device)` returns for the shapes of late; it is not to be written to."""
    cache = OrderedDict()

    @functools.wraps(compute)
    def cached(layout: Layout, height: int, width: int, device: torch.device):
        key = (layout, height, width, device)
        if key not in cache:
            with torch.inference_mode(False):  # else a later training step could not save these tensors for backward
                cache[key] = compute(layout, height, width, device)
            while len(cache) > _CACHE_SIZE:
                cache.popitem(last=False)
        cache.move_to_end(key)
        return cache[key]

    return cached


_CACHE_SIZE = 128  # multi-scale training: tens of shapes times four stages, up to a few MB each


def get_geometry(layout: Layout, height: int, width: int, x: Tensor) -> Geometry:
    """The geometry of `layout` on a padded (height, width) map on x's device, computed once a shape.

    Args:
        layout (Layout): The attention pattern.
        height (int): The map's height, a multiple of the window size.
        width (int): The map's width, likewise.
        x (Tensor): Any tensor of the computation: its device is used.

    Returns:
        Geometry: Shared by all callers: not to be written to.
    """
    if torch.compiler.is_compiling() or type(x) not in (Tensor, torch.nn.Parameter):
        return _compute(layout, height, width, x.device)  # traced or fake tensors must not outlive their trace
    return _compute_once(layout, height, width, x.device)


def _compute(layout: Layout, height: int, width: int, device: torch.device) -> Geometry:
    ws, e = layout.window_size, layout.expand_size
    rows, cols = height // ws, width // ws

    # fine level: the whole region, (rows, cols, ws + 2e, ws + 2e), then the window's own tokens before its ring
    offsets = torch.arange(-e, ws + e, device=device)
    own = (offsets >= 0) & (offsets < ws)
    index, seen = _product(
        _fine_axis(rows, ws, offsets, own, layout.border), _fine_axis(cols, ws, offsets, own, layout.border)
    )
    order = own_first(layout, device)
    outside = layout.positions(height, width)
    index, seen = index[:, order], seen[:, order]
    indices = [index.masked_fill(~seen, outside)]
    masks = [torch.zeros(index.shape, device=device).masked_fill(~seen, float('-inf'))]

    # pooled levels
    base = height * width
    for level in range(layout.pooled_levels):
        size = layout.pooled_size(height, width, level)
        half = layout.focal_window // 2
        offsets = torch.arange(-half, layout.region(level) - half, device=device)
        axes = [_pooled_axis(count, 2**level, offsets) for count in (rows, cols)]
        index, seen = _product(*axes)
        indices.append((index + base).masked_fill(~seen, outside))
        masks.append(torch.zeros(index.shape, device=device).masked_fill(~seen, POOLED_MASK))
        base += math.prod(size)

    shift = _shift_mask(rows, cols, ws, device) if layout.shifted else (None, None)
    return Geometry(torch.cat(indices, -1), torch.cat(masks, -1), *shift)


_compute_once = once_a_shape(_compute)


def _fine_axis(count, ws, offsets, own, border):
    """Positions and their visibility along one axis: two (windows, region) tensors, and the axis' length."""
    position = torch.arange(count, device=offsets.device)[:, None] * ws + offsets
    length = count * ws
    if border == 'mask':
        seen = (position >= 0) & (position < length)
    else:  # where one window spans the axis, wrapping would bring its own tokens back
        seen = (own if count == 1 else torch.ones_like(own)).expand(count, -1)
    return position % length, seen, length


def _pooled_axis(count, per_window, offsets):
    position = torch.arange(count, device=offsets.device)[:, None] * per_window + offsets
    length = count * per_window
    return position, (position >= 0) & (position < length), length


def _product(row_axis, col_axis):
    """(windows, region²) indices into the row-major map, and their visibility."""
    (row, row_seen, _), (col, col_seen, width) = row_axis, col_axis
    n = len(row) * len(col)
    index = row[:, None, :, None] * width + col[None, :, None, :]
    seen = row_seen[:, None, :, None] & col_seen[None, :, None, :]
    return index.reshape(n, -1), seen.reshape(n, -1)


def _shift_mask(rows, cols, ws, device):
    """Swin's mask on a rolled map, (4, t, t), and which of the four is each window's, (n,)."""
    # the last window holds tokens of the map's end and, after ws // 2 of them rolled round, of its start
    rolled = torch.arange(ws, device=device) >= ws - ws // 2
    parts = [
        (last_row * rolled[:, None] * 2 + last_col * rolled).flatten() for last_row in (0, 1) for last_col in (0, 1)
    ]
    parts = torch.stack(parts)
    mask = (parts[:, :, None] != parts[:, None, :]) * POOLED_MASK
    kind = (torch.arange(rows, device=device) == rows - 1)[:, None] * 2 + (
        torch.arange(cols, device=device) == cols - 1
    )
    return mask, kind.flatten()


def own_first(layout: Layout, device: torch.device) -> Tensor:
    """Positions in a window's fine region, row-major: the window's own tokens, then its ring's."""
    offsets = torch.arange(-layout.expand_size, layout.window_size + layout.expand_size, device=device)
    own = (offsets >= 0) & (offsets < layout.window_size)
    return torch.argsort((~(own[:, None] & own)).flatten().to(torch.uint8), stable=True)


def relative_index(ws: int, region: int, device=None) -> Tensor:
    """Rows of a relative bias table for a window's queries and a region of keys.

    Args:
        ws (int): Window size.
        region (int): Side of the region, ≥ 1; the table has (ws + region − 1)² rows.

    Returns:
        Tensor: (ws², region²), int64: (row_q − row_k + region − 1)·(ws + region − 1) + (col_q − col_k + region − 1).
    """
    difference = torch.arange(ws, device=device)[:, None] - torch.arange(region, device=device) + region - 1
    index = difference[:, None, :, None] * (ws + region - 1) + difference[None, :, None, :]
    return index.reshape(ws * ws, region * region)
