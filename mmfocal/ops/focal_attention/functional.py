import importlib.util
from collections.abc import Sequence

from torch import Tensor

from mmfocal.ops.focal_attention.backends.reference import reference_attention
from mmfocal.ops.focal_attention.geometry import Layout
from mmfocal.ops.focal_attention.torch_library import fused_attention, load_backend, unpacked

_TRITON_IS_THERE = importlib.util.find_spec('triton') is not None

BACKENDS = ('reference', 'gather', 'triton')


def focal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pooled_kv: Sequence[tuple[Tensor, Tensor]] = (),
    bias: Tensor = None,
    *,
    window_size: int = 7,
    expand_size: int = 3,
    focal_window: int = 7,
    border: str = 'wrap',
    shifted: bool = False,
    dropout_p: float = 0.0,
    backend: str = 'auto',
) -> Tensor:
    """Focal self-attention: each window's queries attend to the window, to the ring around it, and to pooled tokens further out.

    Maps are channels last, (B, H, W, heads, head_dim), of any floating type, on any device, contiguous or not; H and W are
    multiples of `window_size`. A window's keys are ordered: its own window_size² tokens; its ring, row-major; each pooled level's
    region, row-major.

    Args:
        q (Tensor): Queries, (B, H, W, heads, head_dim), not yet scaled: logits are q·k / sqrt(head_dim) + bias.
        k (Tensor): Keys, of the same shape.
        v (Tensor): Values, of the same shape.
        pooled_kv (Sequence[Tuple[Tensor, Tensor]]): Keys and values of each pooled level l = 0, 1, …, each
            (B, H/window_size·2^l, W/window_size·2^l, heads, head_dim). Defaults to (), the fine level only.
        bias (Tensor, optional): (heads, window_size², keys), added to the logits. Defaults to None.
        window_size (int): Side of a window, in tokens. Defaults to 7.
        expand_size (int): Width of the ring, in tokens; 0 for none. Defaults to 3.
        focal_window (int): Side of a window's region at the first pooled level, odd; level l's is
            focal_window + 2^l − 1. Defaults to 7.
        border (str): What lies beyond the map at the fine level: 'wrap', its opposite edge, as the released weights were trained;
            'mask', nothing. Defaults to 'wrap'.
        shifted (bool): The map was rolled by −(window_size // 2) on both axes: tokens that only the roll brought into
            one window do not see each other there. Defaults to False.
        dropout_p (float): Dropout on the attention weights, applied whenever > 0. Defaults to 0.
        backend (str): 'triton' (a fused kernel, on GPUs), 'gather' (a few windows at a time, any device), 'reference' (the definition,
            any dtype, differentiable twice) or 'auto', the first of these that supports the input. Defaults to 'auto'.

    Returns:
        Tensor: (B, H, W, heads, head_dim), in q's dtype.

    Raises:
        TypeError: If q, k, v are not floating-point tensors of one dtype.
        ValueError: If a shape or an option does not fit, or a backend asked for does not support the input.

    Example:
        >>> qkv = torch.randn(2, 56, 84, 3, 4, 32)  # two maps of 56 × 84 tokens, 4 heads of 32 channels
        >>> pooled = torch.randn(2, 8, 12, 2, 4, 32)  # keys and values of one token for each 7 × 7 window
        >>> focal_attention(*qkv.unbind(3), [pooled.unbind(3)], focal_window=5).shape
        torch.Size([2, 56, 84, 4, 32])
    """
    options = (window_size, expand_size, focal_window, border, shifted)
    return _attend([q, k, v], [x for pair in pooled_kv for x in pair], bias, options, dropout_p, backend)


def focal_attention_qkvpacked(
    qkv: Tensor,
    pooled_kv: Sequence[Tensor] = (),
    bias: Tensor = None,
    *,
    window_size: int = 7,
    expand_size: int = 3,
    focal_window: int = 7,
    border: str = 'wrap',
    shifted: bool = False,
    dropout_p: float = 0.0,
    backend: str = 'auto',
) -> Tensor:
    """`focal_attention` of maps that one projection gave: their gradients come in one tensor too, which saves copies.

    Args:
        qkv (Tensor): (B, H, W, 3, heads, head_dim).
        pooled_kv (Sequence[Tensor]): (B, h, w, 2, heads, head_dim) for each pooled level. Defaults to ().
        bias, window_size, expand_size, focal_window, border, shifted, dropout_p, backend: See `focal_attention`.

    Returns:
        Tensor: (B, H, W, heads, head_dim), in qkv's dtype.

    Raises:
        TypeError: If the maps are not floating-point tensors of one dtype.
        ValueError: If a shape or an option does not fit, or a backend asked for does not support the input.
    """
    if qkv.dim() != 6 or qkv.shape[3] != 3:
        raise ValueError(f'qkv must be (B, H, W, 3, heads, head_dim), got {tuple(qkv.shape)}')
    for level, pooled in enumerate(pooled_kv):
        if pooled.dim() != 6 or pooled.shape[3] != 2:
            raise ValueError(f'pooled_kv[{level}] must be (B, h, w, 2, heads, head_dim), got {tuple(pooled.shape)}')
    options = (window_size, expand_size, focal_window, border, shifted)
    return _attend([qkv], list(pooled_kv), bias, options, dropout_p, backend)


def _attend(qkv, pooled, bias, options, dropout_p, backend):
    q, k, v, pooled_kv = unpacked(qkv, pooled)
    window_size, expand_size, focal_window, border, shifted = options
    layout = Layout(window_size, expand_size, focal_window, len(pooled_kv), border, shifted)
    _check(q, k, v, pooled_kv, bias, layout, backend)
    backend = _choose(backend, q, layout, dropout_p)
    if backend == 'reference':
        return reference_attention(q, k, v, pooled_kv, bias, layout, dropout_p)
    return fused_attention(qkv, pooled, bias, *options, backend)[0]


def _choose(backend: str, q: Tensor, layout: Layout, dropout_p: float) -> str:
    if backend == 'reference':
        return backend
    if backend == 'auto':
        names = ('triton', 'gather') if q.is_cuda else ('gather',)
        return next((name for name in names if _unsupported(name, q, layout, dropout_p) is None), 'reference')
    reason = _unsupported(backend, q, layout, dropout_p)
    if reason is not None:
        raise ValueError(f'backend={backend!r} cannot take this input: {reason}')
    return backend


def _unsupported(name: str, q: Tensor, layout: Layout, dropout_p: float) -> str | None:
    if name == 'triton' and not _TRITON_IS_THERE:
        return 'the package triton is not installed'
    return load_backend(name).unsupported(q, layout, dropout_p)


def _check(q, k, v, pooled_kv, bias, layout, backend):
    check_layout(layout)
    if backend != 'auto' and backend not in BACKENDS:
        raise ValueError(f"backend must be 'auto' or one of {', '.join(map(repr, BACKENDS))}, got {backend!r}")
    if not q.is_floating_point() or q.dtype != k.dtype or q.dtype != v.dtype:
        raise TypeError(f'q, k and v must share one floating-point dtype, got {q.dtype}, {k.dtype}, {v.dtype}')
    if q.dim() != 5 or q.shape != k.shape or q.shape != v.shape:
        raise ValueError(
            'q, k and v must share one shape (B, H, W, heads, head_dim), '
            f'got {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}'
        )
    batch, height, width, heads, head_dim = q.shape
    ws = layout.window_size
    if q.numel() == 0 or height % ws or width % ws:
        raise ValueError(
            f'q must be a non-empty map whose height and width are multiples of window_size={ws}, got {tuple(q.shape)}'
        )
    for level, pair in enumerate(pooled_kv):
        expected = (batch, *layout.pooled_size(height, width, level), heads, head_dim)
        for name, pooled in zip('kv', pair):
            if pooled.shape != expected or pooled.dtype != q.dtype:
                raise ValueError(
                    f'pooled_kv[{level}]: {name} must be {expected} in {q.dtype}, '
                    f'got {tuple(pooled.shape)} in {pooled.dtype}'
                )
    if bias is not None and bias.shape != (heads, layout.tokens, layout.keys):
        raise ValueError(
            f'bias must be (heads, window_size², keys) = {(heads, layout.tokens, layout.keys)}, got {tuple(bias.shape)}'
        )


def check_layout(layout: Layout) -> None:
    """Raises ValueError, in one sentence, if a layout's numbers cannot work."""
    for name, least in (('window_size', 1), ('expand_size', 0), ('focal_window', 1), ('pooled_levels', 0)):
        value = getattr(layout, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f'{name} must be an integer of at least {least}, got {value!r}')
    if layout.expand_size > layout.window_size:
        raise ValueError(f'expand_size must not exceed window_size={layout.window_size}, got {layout.expand_size}')
    if layout.focal_window % 2 == 0:
        raise ValueError(f'focal_window must be odd, got {layout.focal_window}')
    if layout.pooled_levels and layout.window_size < 2 ** (layout.pooled_levels - 1):
        raise ValueError(
            f'window_size={layout.window_size} is too small for {layout.pooled_levels} pooled levels: '
            f'the last would pool less than one token'
        )
    if layout.border not in ('wrap', 'mask'):
        raise ValueError(f"border must be 'wrap' or 'mask', got {layout.border!r}")
