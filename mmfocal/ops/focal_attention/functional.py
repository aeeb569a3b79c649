from collections.abc import Sequence

from torch import Tensor

from mmfocal.ops.focal_attention.geometry import Layout
from mmfocal.ops.focal_attention.torch_library import run_backend, unpack_maps


def focal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pooled_kv: Sequence[tuple[Tensor, Tensor]],
    bias: Tensor | None,
    layout: Layout,
    *,
    dropout_p: float = 0.0,
    backend: str = 'auto',
) -> Tensor:
    """Computes focal self-attention: a window attends to itself, to the ring around it, and to pooled tokens further
    out.

    Maps are channels last, of any floating type, on any device, contiguous or not. The keys of a window are ordered:
    its own window_size² tokens; its ring, row-major; the region of each pooled level, row-major (the paper's section
    3.2).

    Args:
        q: Queries, (B, H, W, heads, head_dim), H and W multiples of the window size, not yet scaled: logits are
            q·k / sqrt(head_dim) + bias.
        k: Keys, of the same shape.
        v: Values, of the same shape.
        pooled_kv: Keys and values of each pooled level l = 0, 1, …, each
            (B, H/window_size·2^l, W/window_size·2^l, heads, head_dim); () for the fine level only.
        bias: (heads, window_size², keys), added to the logits; None for no bias.
        layout: Windows, ring, pooled levels, border and shift.
        dropout_p: Probability with which an attention weight is dropped, also in eval mode. Defaults to 0.
        backend: 'triton' (a fused kernel, on GPUs), 'gather' (some windows at a time, on any device), 'reference' (the
            definition, in any dtype, differentiable twice), or 'auto', the first of these that supports the input.

    Returns:
        (B, H, W, heads, head_dim), in the dtype of q.

    Raises:
        TypeError: If q, k, v are not floating-point tensors of one dtype.
        ValueError: If a shape does not fit, or the backend does not support the input.

    Example:
        >>> qkv = torch.randn(2, 56, 84, 3, 4, 32)  # two maps of 56 × 84 tokens, 4 heads of 32 channels
        >>> pooled = torch.randn(2, 8, 12, 2, 4, 32)  # keys and values of one token per 7 × 7 window
        >>> focal_attention(*qkv.unbind(3), [pooled.unbind(3)], None, Layout(focal_window=5)).shape
        torch.Size([2, 56, 84, 4, 32])
    """
    _check_maps(q, k, v, pooled_kv, bias, layout)
    return run_backend([q, k, v], [x for pair in pooled_kv for x in pair], bias, layout, dropout_p, backend)


def focal_attention_qkvpacked(
    qkv: Tensor,
    pooled_kv: Sequence[Tensor],
    bias: Tensor | None,
    layout: Layout,
    *,
    dropout_p: float = 0.0,
    backend: str = 'auto',
) -> Tensor:
    """Computes `focal_attention` of maps from one projection; their gradients are one tensor too, which saves copies.

    Args:
        qkv: (B, H, W, 3, heads, head_dim).
        pooled_kv: (B, h, w, 2, heads, head_dim), one per pooled level.
        bias: See `focal_attention`.
        layout: See `focal_attention`.
        dropout_p: See `focal_attention`.
        backend: See `focal_attention`.

    Returns:
        (B, H, W, heads, head_dim), in the dtype of qkv.

    Raises:
        TypeError: If the maps are not floating-point tensors of one dtype.
        ValueError: If a shape does not fit, or the backend does not support the input.
    """
    if qkv.dim() != 6 or qkv.shape[3] != 3:
        raise ValueError(f'focal_attention: qkv must be (B, H, W, 3, heads, head_dim), got {tuple(qkv.shape)}')
    for level, pooled in enumerate(pooled_kv):
        if pooled.dim() != 6 or pooled.shape[3] != 2:
            raise ValueError(
                f'focal_attention: pooled_kv[{level}] must be (B, h, w, 2, heads, head_dim), got {tuple(pooled.shape)}'
            )
    q, k, v, pairs = unpack_maps([qkv], pooled_kv)
    _check_maps(q, k, v, pairs, bias, layout)
    return run_backend([qkv], list(pooled_kv), bias, layout, dropout_p, backend)


def _check_maps(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pooled_kv: Sequence[Sequence[Tensor]],
    bias: Tensor | None,
    layout: Layout,
) -> None:
    if not q.is_floating_point() or q.dtype != k.dtype or q.dtype != v.dtype:
        raise TypeError(
            f'focal_attention: q, k and v must share one floating-point dtype, got {q.dtype}, {k.dtype}, {v.dtype}'
        )
    if q.dim() != 5 or q.shape != k.shape or q.shape != v.shape:
        raise ValueError(
            'focal_attention: q, k and v must share one shape (B, H, W, heads, head_dim), '
            f'got {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}'
        )
    batch, height, width, heads, head_dim = q.shape
    window_size = layout.window_size
    if q.numel() == 0 or height % window_size or width % window_size:
        raise ValueError(
            f'focal_attention: q must be a non-empty map whose height and width are multiples of '
            f'window_size={window_size}, got {tuple(q.shape)}; pad it first'
        )
    if len(pooled_kv) != layout.pooled_levels:
        raise ValueError(
            f'focal_attention: layout has pooled_levels={layout.pooled_levels}, pooled_kv has {len(pooled_kv)}; '
            'give one pair per level'
        )
    for level, pair in enumerate(pooled_kv):
        expected = (batch, *layout.pooled_size(height, width, level), heads, head_dim)
        for name, pooled in zip('kv', pair):
            if pooled.shape != expected or pooled.dtype != q.dtype:
                raise ValueError(
                    f'focal_attention: pooled_kv[{level}]: {name} must be {expected} in {q.dtype}, '
                    f'got {tuple(pooled.shape)} in {pooled.dtype}'
                )
    if bias is not None and bias.shape != (heads, layout.tokens, layout.keys):
        raise ValueError(
            f'focal_attention: bias must be (heads, window_size², keys) = {(heads, layout.tokens, layout.keys)}, '
            f'got {tuple(bias.shape)}'
        )
