"""Sliding-chunk attention of the Vision Longformer (https://arxiv.org/abs/2103.15358, section 3.2) for any device."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

PATTERNS = ('chunk', 'exact', 'cyclic')
# The eight chunks around a chunk: rows and columns of chunks from it, in the order of the released random shift.
NEIGHBORS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))

# Keys and values that are gathered at a time: they fit the cache of a CPU, and keep an accelerator busy.
_GATHERED_BYTES = {'cpu': 2**22, 'accelerator': 2**28}


def sliding_chunk_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    global_k: Tensor,
    global_v: Tensor,
    bias: Tensor | None = None,
    *,
    chunk_size: int,
    pattern: str = 'chunk',
    neighbors: Sequence[tuple[int, int]] | None = None,
    dropout_p: float = 0.0,
) -> Tensor:
    """Attends from each token of a map to the global tokens and to the tokens of the 3 × 3 chunks around it.

    A chunk is a square of `chunk_size` × `chunk_size` tokens; all of its queries share their keys. The map need not
    consist of
    whole chunks: what lies outside it is masked. The keys of some chunks are gathered at a time, and gathered again
    in backward, so
    that the nine-fold copies of keys and values are never all in memory.

    Args:
        q: Queries (B, H, W, heads, head_dim), not scaled.
        k: Keys, same shape.
        v: Values, same shape.
        global_k: Keys of the g global tokens (B, g, heads, head_dim); g may be 0.
        global_v: Values of the global tokens, same shape.
        bias: (heads, chunk_size², g + 9·chunk_size²), added to the logits: global tokens first, then the 3 × 3 chunks
            as one
            square, row-major.
        chunk_size: Side of a chunk (w), in tokens.
        pattern: 'chunk': the whole 3 × 3 chunks; 'exact': only tokens at most `chunk_size` rows and columns away;
            'cyclic': chunks beyond
            the map's edge are those at its opposite edge, as in the released code's `exact=-1`.
        neighbors: Chunks to attend to beside the token's own, some of `NEIGHBORS`; None for all eight.
        dropout_p: Dropout of the attention weights.

    Returns:
        (B, H, W, heads, head_dim).

    Raises:
        ValueError: If `pattern` is unknown or is combined with `neighbors` where it cannot be.
    """
    if pattern not in PATTERNS:
        raise ValueError(f'pattern must be one of {", ".join(map(repr, PATTERNS))}, got {pattern!r}')
    if pattern == 'exact' and neighbors is not None:
        raise ValueError("pattern='exact' needs all neighbors: leave neighbors=None")
    batch, height, width, heads, head_dim = q.shape
    ws = chunk_size
    rows, cols = -(-height // ws), -(-width // ws)
    q = F.pad(q, (0, 0, 0, 0, 0, cols * ws - width, 0, rows * ws - height))
    k, v = (_surrounded(x, ws, cyclic=pattern == 'cyclic') for x in (k, v))
    visible = _visible(height, width, ws, pattern == 'cyclic', q.device)
    chosen = _chosen(ws, neighbors, q.device)
    if chosen is not None:
        visible = visible[..., chosen]
        bias = None if bias is None else torch.cat([bias[..., : -9 * ws**2], bias[..., -9 * ws**2 :][..., chosen]], -1)
    if pattern == 'exact':
        far = _far(ws, q.device)  # (t, 9·t)
        bias = q.new_zeros(1, 1, global_k.shape[1] + far.shape[1]) if bias is None else bias
        bias = bias.masked_fill(F.pad(far, (global_k.shape[1], 0)), float('-inf'))

    def attend(
        q: Tensor, k: Tensor, v: Tensor, global_k: Tensor, global_v: Tensor, bias: Tensor | None, visible: Tensor
    ):
        """Attends from some rows of chunks."""
        queries = q.unflatten(2, (-1, ws)).unflatten(1, (-1, ws)).permute(0, 1, 3, 5, 2, 4, 6)
        count = queries.shape[1] * queries.shape[2]  # chunks per image
        queries = queries.reshape(batch * count, heads, ws**2, head_dim)
        keys, values = (_gather(x, extra, ws, chosen).flatten(0, 1) for x, extra in ((k, global_k), (v, global_v)))
        mask = F.pad(visible.flatten(0, 1), (global_k.shape[1], 0), value=True)[:, None, None]  # (count, 1, 1, keys)
        if bias is not None:
            mask = bias.to(q.dtype).masked_fill(~mask, float('-inf'))
        mask = mask.repeat(batch, 1, 1, 1) if batch > 1 else mask
        out = F.scaled_dot_product_attention(queries, keys, values, mask, dropout_p)
        out = out.view(batch, -1, cols, heads, ws, ws, head_dim).permute(0, 1, 4, 2, 5, 3, 6)
        return out.reshape(q.shape)

    row_bytes = 2 * batch * cols * heads * head_dim * q.element_size() * (visible.shape[-1] + global_k.shape[1])
    step = max(1, _GATHERED_BYTES['cpu' if q.device.type == 'cpu' else 'accelerator'] // row_bytes)
    needs_grad = torch.is_grad_enabled() and any(
        x is not None and x.requires_grad for x in (q, k, v, global_k, global_v, bias)
    )
    outs = []
    for row in range(0, rows, step):
        last = min(row + step, rows)
        reach = slice(row * ws, (last + 2) * ws)  # of the padded map
        inputs = (q[:, row * ws : last * ws], k[:, reach], v[:, reach], global_k, global_v, bias, visible[row:last])
        if needs_grad:
            outs.append(checkpoint(attend, *inputs, use_reentrant=False, preserve_rng_state=dropout_p > 0))
        else:
            outs.append(attend(*inputs))
    return torch.cat(outs, 1)[:, :height, :width]


def _surrounded(x: Tensor, ws: int, cyclic: bool) -> Tensor:
    """Pads a map to whole chunks with zeros, then by a chunk on each side: zeros, or the opposite edge."""
    bottom, right = -x.shape[1] % ws, -x.shape[2] % ws
    if not cyclic:
        return F.pad(x, (0, 0, 0, 0, ws, ws + right, ws, ws + bottom))
    x = F.pad(x, (0, 0, 0, 0, 0, right, 0, bottom))
    x = torch.cat([x[:, -ws:], x, x[:, :ws]], 1)
    return torch.cat([x[:, :, -ws:], x, x[:, :, :ws]], 2)


def _visible(height: int, width: int, ws: int, cyclic: bool, device: torch.device) -> Tensor:
    """Returns which tokens of its 3 × 3 chunks each chunk sees: (rows, cols, 9·ws²), bool."""
    axes = []
    for length in (height, width):
        whole = -(-length // ws) * ws
        position = torch.arange(-ws, whole + ws, device=device)
        outside = (position < 0) | (position >= length)
        if cyclic:  # only the padding that is reached without going round is masked
            outside = (position >= length) & (position < whole)
        axes.append(~outside.unfold(0, 3 * ws, ws))
    rows, cols = axes
    return (rows[:, None, :, None] & cols[None, :, None, :]).flatten(2)


def _chosen(ws: int, neighbors: Sequence[tuple[int, int]] | None, device: torch.device) -> Tensor | None:
    """Returns the positions, in the square of 3 × 3 chunks, of a chunk's own tokens and of some neighbors'."""
    if neighbors is None:
        return None
    square = torch.arange(9 * ws**2, device=device).view(3, ws, 3, ws)
    return torch.cat([square[1 + row, :, 1 + col].flatten() for row, col in ((0, 0), *neighbors)])


def _far(ws: int, device: torch.device) -> Tensor:
    """Returns which tokens of the 3 × 3 chunks are more than `ws` rows or columns from each query: (ws², 9·ws²),
    bool."""
    distance = torch.arange(3 * ws, device=device) - torch.arange(ws, 2 * ws, device=device)[:, None]
    near = distance.abs() <= ws  # (ws, 3·ws)
    return ~(near[:, None, :, None] & near[None, :, None, :]).reshape(ws**2, 9 * ws**2)


def _gather(x: Tensor, extra: Tensor, ws: int, chosen: Tensor | None) -> Tensor:
    """Gathers the global tokens and each chunk's 3 × 3 chunks of a padded map: (B, chunks, heads, g + keys,
    head_dim)."""
    regions = x.unfold(1, 3 * ws, ws).unfold(2, 3 * ws, ws).flatten(1, 2)  # (B, chunks, heads, head_dim, 3·ws, 3·ws)
    regions = regions.permute(0, 1, 2, 4, 5, 3).flatten(3, 4)
    if chosen is not None:
        regions = regions[:, :, :, chosen]
    extra = extra.transpose(1, 2)[:, None].expand(-1, regions.shape[1], -1, -1, -1)
    return torch.cat([extra, regions], 3)
