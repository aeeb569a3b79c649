"""Focal attention on any device, in chunks of windows whose keys and values are gathered, attended to and dropped.

A chunk fits a processor's cache; backward gathers it again. Its logits are computed in tiles: some of its windows at
a time.

Names and shapes: `n` windows of a chunk or tile, `t` = window_size² tokens in a window, `keys` keys per window. Here
the keys of a window are in the order of regions: the fine region row by row, with the window's own tokens in its
middle, then the regions of the pooled levels. Keys and values are stacked: (2, …).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmfocal.ops.focal_attention.geometry import Layout, cached_per_shape, get_geometry, own_tokens_first

# Keys and values of a chunk fit a processor's last cache, logits of a tile its second; an accelerator wants to be busy
_CHUNK_BYTES = {'cpu': 2**22, 'accelerator': 2**28}
_TILE_BYTES = {'cpu': 2**21, 'accelerator': 2**28}

SAVES_LSE = False


def unsupported(q: Tensor, layout: Layout, dropout_p: float) -> str | None:
    """Returns why this backend cannot take an input, in a phrase; None if it can."""
    return 'it has no dropout' if dropout_p else None


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pooled_kv: Sequence[tuple[Tensor, Tensor]],
    bias: Tensor | None,
    layout: Layout,
    dropout_p: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Computes focal attention; see `focal_attention` for the arguments. `dropout_p` is 0, see `unsupported`.

    Returns:
        The output, (B, H, W, heads, head_dim), and an empty tensor.
    """
    height, width = q.shape[1:3]
    plan = _plan(layout, height, width, q.device)
    maps = [_pad_regions(_stack_kv(*pair), layout, level) for level, pair in enumerate([(k, v), *pooled_kv])]
    bias = plan.ordered(bias, _compute_dtype(q))
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    workspace = _Workspace(q)
    for chunk in plan.chunks(q):
        queries = _load_windows(q, 'queries', layout, chunk, workspace)
        keys, values = _gather_regions(maps, layout, chunk, workspace)
        for tile, masks in plan.tiles(q, chunk):
            weights = _attention_weights(queries[tile], keys[tile], bias, masks, workspace)
            torch.bmm(weights, values[tile], out=queries[tile])  # the queries are not needed any more
        _store_windows(queries, out, layout, chunk)
    return out, q.new_empty(0)


def backward(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pooled_kv: Sequence[tuple[Tensor, Tensor]],
    bias: Tensor | None,
    out: Tensor,
    lse: Tensor,
    layout: Layout,
    bias_grad: bool,
    grad_q: Tensor,
    grad_k: Tensor,
    grad_v: Tensor,
    grad_pooled_kv: Sequence[tuple[Tensor, Tensor]],
) -> Tensor | None:
    """Writes the gradients of the maps into the last four arguments and returns the bias' (None unless `bias_grad`)."""
    _, height, width, _, head_dim = q.shape
    plan = _plan(layout, height, width, q.device)
    pairs = [_stack_kv(*pair) for pair in [(k, v), *pooled_kv]]
    maps = [_pad_regions(x, layout, level) for level, x in enumerate(pairs)]
    ordered = plan.ordered(bias, _compute_dtype(q))
    grad_maps = [_zeros_with_regions(x, layout, level) for level, x in enumerate(pairs)]
    grad_bias = torch.zeros_like(ordered)
    scale = head_dim**-0.5
    workspace = _Workspace(q)
    for chunk in plan.chunks(q):
        queries = _load_windows(q, 'queries', layout, chunk, workspace)
        grads = _load_windows(grad_out, 'grads', layout, chunk, workspace)
        gathered = _gather_regions(maps, layout, chunk, workspace)
        keys, values = gathered
        grad_queries = workspace('grad_queries', *queries.shape)
        for tile, masks in plan.tiles(q, chunk):
            weights = _attention_weights(queries[tile], keys[tile], ordered, masks, workspace)
            grad_logits = torch.bmm(grads[tile], values[tile].transpose(1, 2), out=workspace('logits', *weights.shape))
            torch._softmax_backward_data(grad_logits, weights, -1, weights.dtype, grad_input=grad_logits)
            if bias_grad:
                grad_bias += grad_logits.unflatten(0, (-1, len(ordered))).sum(0)
            torch.bmm(grad_logits, keys[tile], out=grad_queries[tile])
            torch.bmm(
                grad_logits.transpose(1, 2), queries[tile], out=keys[tile]
            )  # keys and values are not needed any more
            torch.bmm(weights.transpose(1, 2), grads[tile], out=values[tile])
        _store_windows(grad_queries.mul_(scale), grad_q, layout, chunk)
        gathered[0] *= scale
        _scatter_add_regions(gathered, grad_maps, layout, chunk)
    for level, pair in enumerate([(grad_k, grad_v), *grad_pooled_kv]):
        for target, grad in zip(pair, _fold_regions(grad_maps[level], pairs[level], layout, level)):
            target.copy_(grad)
    if bias is None or not bias_grad:
        return None
    return torch.empty_like(grad_bias).index_copy_(-1, plan.order, grad_bias).to(bias.dtype)


def _compute_dtype(x: Tensor) -> torch.dtype:
    """Returns the dtype to compute in: float32 for half precision."""
    return torch.promote_types(x.dtype, torch.float32)


@dataclass(frozen=True)
class _Chunk:
    """Windows whose keys and values are gathered at a time."""

    images: slice
    rows: slice  # of windows


@dataclass(frozen=True)
class _Plan:
    """A geometry in the order of regions.

    Attributes:
        layout: The attention pattern.
        cols: Windows per row of windows.
        order: (keys,), the index of each key in the operator's order.
        masks: (windows, 1, 1, keys), float32, 0 or −inf, which in place of −100 changes a result by less than 1e-40.
        shift_masks: (4, 1, t, keys), likewise; None without a shift.
        shift_kind: (windows,), which of the four masks a window takes; None without a shift.
        masked: Whether a window has a masked key, one per window.
    """

    layout: Layout
    cols: int
    order: Tensor
    masks: Tensor
    shift_masks: Tensor | None
    shift_kind: Tensor | None
    masked: list[bool]

    def chunks(self, q: Tensor) -> Iterator[_Chunk]:
        """Yields whole rows of windows, of as many images as fit."""
        rows = len(self.masks) // self.cols
        row_bytes = 2 * self.cols * self.layout.keys * q.shape[3] * q.shape[4] * q.element_size()
        most = max(1, _CHUNK_BYTES['cpu' if q.device.type == 'cpu' else 'accelerator'] // row_bytes)
        images, rows_at_once = max(1, most // rows), min(most, rows)
        for row in range(0, rows, rows_at_once):
            for image in range(0, len(q), images):
                yield _Chunk(slice(image, min(image + images, len(q))), slice(row, min(row + rows_at_once, rows)))

    def tiles(self, q: Tensor, chunk: _Chunk) -> Iterator[tuple[slice, list[Tensor]]]:
        """Yields the tiles of a chunk, slices of its n·heads, and the masks (n, 1, 1 or t, keys) of their logits."""
        heads = q.shape[3]
        logits_bytes = heads * self.layout.tokens * self.layout.keys * q.element_size()
        most = max(1, _TILE_BYTES['cpu' if q.device.type == 'cpu' else 'accelerator'] // logits_bytes)
        first, last = chunk.rows.start * self.cols, chunk.rows.stop * self.cols
        for image in range(chunk.images.stop - chunk.images.start):
            for start in range(first, last, most):
                windows = slice(start, min(start + most, last))
                masks = []
                if any(self.masked[windows]):
                    masks.append(self.masks[windows])
                    if self.shift_masks is not None and self.shift_kind is not None:
                        masks.append(self.shift_masks[self.shift_kind[windows]])
                offset = image * (last - first) - first
                yield slice((windows.start + offset) * heads, (windows.stop + offset) * heads), masks

    def ordered(self, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Returns the bias in the order of regions, (1 or heads, 1 or t, keys)."""
        if bias is None:
            return torch.zeros(1, 1, len(self.order), dtype=dtype, device=self.order.device)
        return bias[..., self.order].to(dtype)


@cached_per_shape
def _plan(layout: Layout, height: int, width: int, device: torch.device) -> _Plan:
    geometry = get_geometry(layout, height, width, torch.empty(0, device=device))
    fine = own_tokens_first(layout, device).argsort()
    order = torch.cat([fine, torch.arange(len(fine), layout.keys, device=device)])

    masks = geometry.mask[:, None, None, order]
    masks = masks.masked_fill(masks < 0, float('-inf'))
    masked, shift_masks = (masks < 0).flatten(1).any(1), None
    if geometry.shift_mask is not None and geometry.shift_kind is not None:
        shift_masks = F.pad(geometry.shift_mask, (0, layout.keys - layout.tokens))[:, None, :, order]
        shift_masks = shift_masks.masked_fill(shift_masks < 0, float('-inf'))
        masked = masked | (geometry.shift_kind > 0)
    return _Plan(layout, width // layout.window_size, order, masks, shift_masks, geometry.shift_kind, masked.tolist())


class _Workspace:
    """Buffers that all chunks share: touching fresh memory costs a processor as much as computing in it."""

    def __init__(self, like: Tensor):
        self.like = like
        self.dtype = _compute_dtype(like)
        self.buffers: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        size = math.prod(shape)
        if name not in self.buffers or len(self.buffers[name]) < size:
            self.buffers[name] = self.like.new_empty(size, dtype=self.dtype)
        return self.buffers[name][:size].view(shape)


def _attention_weights(
    queries: Tensor, keys: Tensor, bias: Tensor, masks: list[Tensor], workspace: _Workspace
) -> Tensor:
    """Returns the weights (n·heads, t, keys) of queries (n·heads, t, head_dim) and keys (n·heads, keys, head_dim)."""
    logits = workspace('logits', *queries.shape[:2], keys.shape[1])
    torch.baddbmm(logits, queries, keys.transpose(1, 2), beta=0, alpha=queries.shape[-1] ** -0.5, out=logits)
    by_window = logits.view(-1, len(bias), *logits.shape[1:])  # zeros in place of a bias have one head for all
    by_window += bias
    for mask in masks:
        by_window.unflatten(0, (len(mask), -1)).add_(mask[:, None])
    return torch.softmax(logits, -1, out=workspace('weights', *logits.shape))


def _region_of(layout: Layout, level: int) -> tuple[int, int, int]:
    """Returns the stride of windows, the margin before a window, and the side of its region, in tokens of a level."""
    if level == 0:
        return layout.window_size, layout.expand_size, layout.window_size + 2 * layout.expand_size
    return 2 ** (level - 1), layout.focal_window // 2, layout.region(level - 1)


def _stack_kv(k: Tensor, v: Tensor) -> Tensor:
    """Returns k and v as one tensor (2, …): a view if they are parts of one projection, else a copy."""
    step = v.storage_offset() - k.storage_offset()
    if step > 0 and k.stride() == v.stride() and k.untyped_storage().data_ptr() == v.untyped_storage().data_ptr():
        return k.as_strided((2, *k.shape), (step, *k.stride()))
    return torch.stack([k, v])


def _pad_regions(pair: Tensor, layout: Layout, level: int) -> Tensor:
    """Pads maps (2, B, h, w, heads, head_dim) as far as regions reach, with zeros or the opposite edge."""
    stride, before, side = _region_of(layout, level)
    after = side - stride - before
    _, batch, height, width, heads, head_dim = pair.shape
    x = pair.new_empty(2, batch, height + before + after, width + before + after, heads, head_dim)
    x[:, :, before : before + height, before : before + width] = pair
    wraps = level == 0 and layout.border == 'wrap'
    inside = x[:, :, before : before + height]  # columns of the map's rows, then whole rows
    for dim, target, length in ((3, inside, width), (2, x, height)):
        first, last = target.narrow(dim, 0, before), target.narrow(dim, before + length, after)
        if wraps:  # there `after` is `before`
            first.copy_(target.narrow(dim, length, before))
            last.copy_(target.narrow(dim, before, before))
        else:
            first.zero_()
            last.zero_()
    return x


def _windows_view(x: Tensor, layout: Layout, chunk: _Chunk) -> Tensor:
    """Returns a view of the chunk of a map, (images, rows, cols, heads, window_size, window_size, head_dim)."""
    ws = layout.window_size
    x = x[chunk.images, chunk.rows.start * ws : chunk.rows.stop * ws]
    return x.unflatten(2, (-1, ws)).unflatten(1, (-1, ws)).permute(0, 1, 3, 5, 2, 4, 6)


def _load_windows(x: Tensor, name: str, layout: Layout, chunk: _Chunk, workspace: _Workspace) -> Tensor:
    """Copies the windows of a chunk, (n·heads, t, head_dim), into the buffer `name`."""
    windows = _windows_view(x, layout, chunk)
    return workspace(name, *windows.shape).copy_(windows).view(-1, layout.tokens, x.shape[-1])


def _store_windows(windows: Tensor, x: Tensor, layout: Layout, chunk: _Chunk) -> None:
    """Writes the windows of a chunk, (n·heads, t, head_dim), into a map: the inverse of `_load_windows`."""
    target = _windows_view(x, layout, chunk)
    target.copy_(windows.view(target.shape))


def _gather_regions(maps: Sequence[Tensor], layout: Layout, chunk: _Chunk, workspace: _Workspace) -> Tensor:
    """Copies the regions of a chunk's windows, all levels one after the other, (2, n·heads, keys, head_dim)."""
    images, rows, cols = chunk.images, chunk.rows, (maps[0].shape[3] - 2 * layout.expand_size) // layout.window_size
    heads, head_dim = maps[0].shape[4:]
    gathered = workspace(
        'gathered', 2, images.stop - images.start, rows.stop - rows.start, cols, heads, layout.keys, head_dim
    )
    first = 0
    for level, x in enumerate(maps):
        stride, _, side = _region_of(layout, level)
        x = x[:, images, rows.start * stride : (rows.stop - 1) * stride + side]
        # (2, images, rows, cols, heads, head_dim, side, side)
        regions = x.unfold(2, side, stride).unfold(3, side, stride)
        target = gathered[..., first : first + side**2, :].unflatten(-2, (side, side))
        target.copy_(regions.permute(0, 1, 2, 3, 4, 6, 7, 5))
        first += side**2
    return gathered.flatten(1, 4)


def _zeros_with_regions(x: Tensor, layout: Layout, level: int) -> Tensor:
    """Returns zeros for the gradients of a level's maps, as far as regions reach beyond them."""
    stride, _, side = _region_of(layout, level)
    beyond = (-(-side // stride) - 1) * stride
    return x.new_zeros(*x.shape[:2], x.shape[2] + beyond, x.shape[3] + beyond, *x.shape[4:], dtype=_compute_dtype(x))


def _scatter_add_regions(gathered: Tensor, maps: Sequence[Tensor], layout: Layout, chunk: _Chunk) -> None:
    """Adds the gradients of a chunk's regions, (2, n·heads, keys, head_dim), to those of the padded maps."""
    images, rows = chunk.images, chunk.rows
    gathered = gathered.unflatten(1, (images.stop - images.start, rows.stop - rows.start, -1, maps[0].shape[4]))
    cols = gathered.shape[3]
    first = 0
    for level, x in enumerate(maps):
        stride, _, side = _region_of(layout, level)
        regions = gathered[..., first : first + side**2, :].unflatten(-2, (side, side))
        regions = regions.permute(0, 1, 2, 5, 3, 6, 4, 7)  # (2, images, rows, side, cols, side, heads, head_dim)
        first += side**2
        strips = x.new_zeros(*regions.shape[:4], *x.shape[3:])
        for left in range(0, side, stride):  # columns of the regions that no two windows share
            shared = strips[:, :, :, :, left : left + cols * stride].unflatten(4, (cols, stride))
            shared[:, :, :, :, :, : side - left] += regions[:, :, :, :, :, left : left + stride]
        for row in range(rows.start, rows.stop):
            x[:, images, row * stride : row * stride + side] += strips[:, :, row - rows.start]


def _fold_regions(x: Tensor, like: Tensor, layout: Layout, level: int) -> Tensor:
    """Returns the gradients of maps without their padding, which at the fine level goes to the opposite edge."""
    _, before, _ = _region_of(layout, level)
    for dim in (2, 3):
        length = like.shape[dim]
        inside = x.narrow(dim, before, length)
        if level == 0 and before:
            inside.narrow(dim, length - before, before).add_(x.narrow(dim, 0, before))
            inside.narrow(dim, 0, before).add_(x.narrow(dim, before + length, before))
        x = inside
    return x
