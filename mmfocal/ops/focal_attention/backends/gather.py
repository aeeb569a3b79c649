"""Focal attention on any device: the keys and values of some windows at a time are brought together, attended to and dropped.

What is gathered at once fits a processor's cache; backward gathers it again. Names and shapes: `n` windows at a time,
`t` = window_size² tokens in a window, `keys` keys a window. Inside, a window's keys are in the order of regions: the fine region row by
row, with the window's own tokens in its middle, then the regions of the pooled levels. Keys and values lie together: (2, …).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmfocal.ops.focal_attention.geometry import Layout, get_geometry, once_a_shape, own_first

# Of keys and values at a time, and of their logits: shares of a processor's last and second cache; enough to fill an accelerator.
_STEP_BYTES = {'cpu': 2**22, 'elsewhere': 2**28}
_PART_BYTES = {'cpu': 2**21, 'elsewhere': 2**28}


def unsupported(q: Tensor, layout: Layout, dropout_p: float) -> str | None:
    """Why this backend cannot take the input; None if it can."""
    return 'it does not drop attention weights' if dropout_p else None


def forward(
    q: Tensor, k: Tensor, v: Tensor, pooled_kv: Sequence[tuple[Tensor, Tensor]], bias: Tensor | None, layout: Layout
) -> tuple[Tensor, Tensor]:
    """Focal attention; see `focal_attention` for the arguments.

    Returns:
        Tuple[Tensor, Tensor]: The output, (B, H, W, heads, head_dim), and an empty tensor: no statistics are kept.
    """
    plan = _plan(layout, *q.shape[1:3], q.device)
    maps = [_padded(_pair(*pair), layout, level) for level, pair in enumerate([(k, v), *pooled_kv])]
    bias = plan.ordered(bias, _dtype(q))
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    space = _Space(q)
    for step in plan.steps(q):
        queries = _take(q, 'queries', layout, step, space)
        keys, values = _gather(maps, layout, step, space)
        for part, masks in plan.parts(q, step):
            weights = _weights(queries[part], keys[part], bias, masks, space)
            torch.bmm(weights, values[part], out=queries[part])  # which have been used
        _put(queries, out, layout, step)
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
    """Writes the gradients of the maps into the last four arguments, and returns the bias' (None unless `bias_grad`)."""
    plan = _plan(layout, *q.shape[1:3], q.device)
    pairs = [_pair(*pair) for pair in [(k, v), *pooled_kv]]
    maps = [_padded(x, layout, level) for level, x in enumerate(pairs)]
    ordered = plan.ordered(bias, _dtype(q))
    grad_maps = [_extended(x, layout, level) for level, x in enumerate(pairs)]
    grad_bias = torch.zeros_like(ordered)
    scale = q.shape[-1] ** -0.5
    space = _Space(q)
    for step in plan.steps(q):
        queries, grads = _take(q, 'queries', layout, step, space), _take(grad_out, 'grads', layout, step, space)
        gathered = _gather(maps, layout, step, space)
        keys, values = gathered
        grad_queries = space('grad_queries', *queries.shape)
        for part, masks in plan.parts(q, step):
            weights = _weights(queries[part], keys[part], ordered, masks, space)
            grad_logits = torch.bmm(grads[part], values[part].transpose(1, 2), out=space('logits', *weights.shape))
            torch._softmax_backward_data(grad_logits, weights, -1, weights.dtype, grad_input=grad_logits)
            if bias_grad:
                grad_bias += grad_logits.unflatten(0, (-1, len(ordered))).sum(0)
            torch.bmm(grad_logits, keys[part], out=grad_queries[part])
            torch.bmm(grad_logits.transpose(1, 2), queries[part], out=keys[part])  # what was gathered has been used
            torch.bmm(weights.transpose(1, 2), grads[part], out=values[part])
        _put(grad_queries.mul_(scale), grad_q, layout, step)
        gathered[0] *= scale
        _scatter(gathered, grad_maps, layout, step)
    for level, pair in enumerate([(grad_k, grad_v), *grad_pooled_kv]):
        for target, grad in zip(pair, _cropped(grad_maps[level], pairs[level], layout, level)):
            target.copy_(grad)
    return torch.empty_like(grad_bias).index_copy_(-1, plan.order, grad_bias).to(bias.dtype) if bias_grad else None


def _dtype(x: Tensor) -> torch.dtype:
    """What is computed in: float32 for the halves."""
    return torch.promote_types(x.dtype, torch.float32)


@dataclass(frozen=True)
class _Step:
    """Windows whose keys and values are gathered at a time: images, and whole rows of windows."""

    images: slice
    rows: slice


@dataclass(frozen=True)
class _Plan:
    """A geometry in the order of regions.

    Attributes:
        layout (Layout): The attention pattern.
        cols (int): Windows in a row of them.
        order (Tensor): (keys,), where each key is in the operator's order.
        masks (Tensor): (windows, 1, 1, keys), float32, 0 or −inf, which in place of −100 changes a result by less than 1e-40 of itself.
        shift_masks (Tensor, optional): (4, 1, t, keys), likewise.
        shift_kind (Tensor, optional): (windows,), which of the four.
        masked (List[bool]): Whether a window sees a masked key.
    """

    layout: Layout
    cols: int
    order: Tensor
    masks: Tensor
    shift_masks: Tensor | None
    shift_kind: Tensor | None
    masked: list[bool]

    def steps(self, q: Tensor) -> Iterator[_Step]:
        rows = len(self.masks) // self.cols
        row_bytes = 2 * self.cols * self.layout.keys * q.shape[3] * q.shape[4] * q.element_size()
        most = max(1, _STEP_BYTES['cpu' if q.device.type == 'cpu' else 'elsewhere'] // row_bytes)
        images, rows_at_once = max(1, most // rows), min(most, rows)
        for row in range(0, rows, rows_at_once):
            for image in range(0, len(q), images):
                yield _Step(slice(image, min(image + images, len(q))), slice(row, min(row + rows_at_once, rows)))

    def parts(self, q: Tensor, step: _Step) -> Iterator[tuple[slice, list[Tensor]]]:
        """Yields parts of a step, slices of n·heads, and what is to be added to their logits: [] or masks (n, 1, 1 or t, keys)."""
        heads = q.shape[3]
        logits_bytes = heads * self.layout.tokens * self.layout.keys * q.element_size()
        most = max(1, _PART_BYTES['cpu' if q.device.type == 'cpu' else 'elsewhere'] // logits_bytes)
        first, last = step.rows.start * self.cols, step.rows.stop * self.cols
        for image in range(step.images.stop - step.images.start):
            for start in range(first, last, most):
                windows = slice(start, min(start + most, last))
                masks = []
                if any(self.masked[windows]):
                    masks.append(self.masks[windows])
                    if self.shift_masks is not None:
                        masks.append(self.shift_masks[self.shift_kind[windows]])
                offset = image * (last - first) - first
                yield slice((windows.start + offset) * heads, (windows.stop + offset) * heads), masks

    def ordered(self, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        """The bias in the order of regions, (1 or heads, 1 or t, keys)."""
        if bias is None:
            return torch.zeros(1, 1, len(self.order), dtype=dtype, device=self.order.device)
        return bias[..., self.order].to(dtype)


@once_a_shape
def _plan(layout: Layout, height: int, width: int, device: torch.device) -> _Plan:
    geometry = get_geometry(layout, height, width, torch.empty(0, device=device))
    fine = own_first(layout, device).argsort()
    order = torch.cat([fine, torch.arange(len(fine), layout.keys, device=device)])

    masks = geometry.mask[:, None, None, order]
    masks = masks.masked_fill(masks < 0, float('-inf'))
    masked, shift_masks = (masks < 0).flatten(1).any(1), None
    if layout.shifted:
        shift_masks = F.pad(geometry.shift_mask, (0, layout.keys - layout.tokens))[:, None, :, order]
        shift_masks = shift_masks.masked_fill(shift_masks < 0, float('-inf'))
        masked = masked | (geometry.shift_kind > 0)
    return _Plan(layout, width // layout.window_size, order, masks, shift_masks, geometry.shift_kind, masked.tolist())


class _Space:
    """Memory that all steps use again: the pages of fresh memory cost a processor as much as what is computed in them."""

    def __init__(self, like: Tensor):
        self.like = like
        self.dtype = _dtype(like)
        self.buffers = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        size = math.prod(shape)
        if name not in self.buffers or len(self.buffers[name]) < size:
            self.buffers[name] = self.like.new_empty(size, dtype=self.dtype)
        return self.buffers[name][:size].view(shape)


def _weights(queries: Tensor, keys: Tensor, bias: Tensor, masks: list[Tensor], space: _Space) -> Tensor:
    """The attention weights (n·heads, t, keys) of queries (n·heads, t, head_dim) and keys (n·heads, keys, head_dim)."""
    logits = space('logits', *queries.shape[:2], keys.shape[1])
    torch.baddbmm(logits, queries, keys.transpose(1, 2), beta=0, alpha=queries.shape[-1] ** -0.5, out=logits)
    by_window = logits.view(-1, len(bias), *logits.shape[1:])  # without a bias, heads do not matter
    by_window += bias
    for mask in masks:
        by_window.unflatten(0, (len(mask), -1)).add_(mask[:, None])
    return torch.softmax(logits, -1, out=space('weights', *logits.shape))


def _level(layout: Layout, level: int) -> tuple[int, int, int]:
    """Of a level's map, the fine one's being 0: tokens from window to window, tokens of a region before its window, its side."""
    if level == 0:
        return layout.window_size, layout.expand_size, layout.window_size + 2 * layout.expand_size
    return 2 ** (level - 1), layout.focal_window // 2, layout.region(level - 1)


def _pair(k: Tensor, v: Tensor) -> Tensor:
    """k and v as one tensor (2, …): a view where they lie in one, as parts of one projection do."""
    step = v.storage_offset() - k.storage_offset()
    if step > 0 and k.stride() == v.stride() and k.untyped_storage().data_ptr() == v.untyped_storage().data_ptr():
        return k.as_strided((2, *k.shape), (step, *k.stride()))
    return torch.stack([k, v])


def _padded(pair: Tensor, layout: Layout, level: int) -> Tensor:
    """A level's maps (2, B, h, w, heads, head_dim) with what regions reach beyond them: zeros, or the opposite edge."""
    stride, before, side = _level(layout, level)
    after = side - stride - before
    x = F.pad(pair, (0, 0, 0, 0, before, after, before, after))
    if level == 0 and before and layout.border == 'wrap':
        for dim in (2, 3):
            length = pair.shape[dim]
            x.narrow(dim, 0, before).copy_(x.narrow(dim, length, before))
            x.narrow(dim, length + before, before).copy_(x.narrow(dim, before, before))
    return x


def _windows(x: Tensor, layout: Layout, step: _Step) -> Tensor:
    """View of a step's part of a map, (images, rows, cols, heads, window_size, window_size, head_dim)."""
    ws = layout.window_size
    x = x[step.images, step.rows.start * ws : step.rows.stop * ws]
    return x.unflatten(2, (-1, ws)).unflatten(1, (-1, ws)).permute(0, 1, 3, 5, 2, 4, 6)


def _take(x: Tensor, name: str, layout: Layout, step: _Step, space: _Space) -> Tensor:
    """A step's windows of a map, (n·heads, t, head_dim), in the space called `name`."""
    windows = _windows(x, layout, step)
    return space(name, *windows.shape).copy_(windows).view(-1, layout.tokens, x.shape[-1])


def _put(windows: Tensor, x: Tensor, layout: Layout, step: _Step) -> None:
    """Writes a step's windows, (n·heads, t, head_dim), into a map: the inverse of `_take`."""
    target = _windows(x, layout, step)
    target.copy_(windows.view(target.shape))


def _gather(maps: Sequence[Tensor], layout: Layout, step: _Step, space: _Space) -> Tensor:
    """All levels' regions of a step's windows, (2, n·heads, keys, head_dim)."""
    images, rows, cols = step.images, step.rows, (maps[0].shape[3] - 2 * layout.expand_size) // layout.window_size
    heads, head_dim = maps[0].shape[4:]
    gathered = space(
        'gathered', 2, images.stop - images.start, rows.stop - rows.start, cols, heads, layout.keys, head_dim
    )
    first = 0
    for level, x in enumerate(maps):
        stride, _, side = _level(layout, level)
        x = x[:, images, rows.start * stride : (rows.stop - 1) * stride + side]
        regions = x.unfold(2, side, stride).unfold(
            3, side, stride
        )  # (2, images, rows, cols, heads, head_dim, side, side)
        target = gathered[..., first : first + side**2, :].unflatten(-2, (side, side))
        target.copy_(regions.permute(0, 1, 2, 3, 4, 6, 7, 5))
        first += side**2
    return gathered.flatten(1, 4)


def _extended(x: Tensor, layout: Layout, level: int) -> Tensor:
    """Zeros for the gradients of a level's maps and of what regions reach beyond them."""
    stride, _, side = _level(layout, level)
    beyond = (-(-side // stride) - 1) * stride
    return x.new_zeros(*x.shape[:2], x.shape[2] + beyond, x.shape[3] + beyond, *x.shape[4:], dtype=_dtype(x))


def _scatter(gathered: Tensor, maps: Sequence[Tensor], layout: Layout, step: _Step) -> None:
    """Adds what belongs to the regions of a step, (2, n·heads, keys, head_dim), to the extended maps."""
    images, rows = step.images, step.rows
    gathered = gathered.unflatten(1, (images.stop - images.start, rows.stop - rows.start, -1, maps[0].shape[4]))
    cols = gathered.shape[3]
    first = 0
    for level, x in enumerate(maps):
        stride, _, side = _level(layout, level)
        regions = gathered[..., first : first + side**2, :].unflatten(-2, (side, side))
        regions = regions.permute(0, 1, 2, 5, 3, 6, 4, 7)  # (2, images, rows, side, cols, side, heads, head_dim)
        first += side**2
        strips = x.new_zeros(*regions.shape[:4], *x.shape[3:])
        for left in range(0, side, stride):  # of the regions' columns, those that no two windows share
            part = strips[:, :, :, :, left : left + cols * stride].unflatten(4, (cols, stride))[
                :, :, :, :, :, : side - left
            ]
            part += regions[:, :, :, :, :, left : left + stride]
        for row in range(rows.start, rows.stop):
            x[:, images, row * stride : row * stride + side] += strips[:, :, row - rows.start]


def _cropped(x: Tensor, like: Tensor, layout: Layout, level: int) -> Tensor:
    """The gradients of maps: what the extended ones hold beyond them belongs, at the fine level, to the opposite edge."""
    _, before, _ = _level(layout, level)
    for dim in (2, 3):
        length = like.shape[dim]
        inside = x.narrow(dim, before, length)
        if level == 0 and before:
            inside.narrow(dim, length - before, before).add_(x.narrow(dim, 0, before))
            inside.narrow(dim, 0, before).add_(x.narrow(dim, before + length, before))
        x = inside
    return x
