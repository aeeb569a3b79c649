"""The GPU kernels of focal attention. A program of the two large ones is one window of one head of one image.

A window has WS² queries, padded to M rows, and KEYS keys, padded to `slots` and read N at a time. table[window, slot] is
a token of the map (slot < FINE), a pooled token, or −1: no key. edge[window] tells where masks are needed: where keys are
−1 or the shift's mask applies. Masked logits are −inf, also those that the definition lowers by 100 (a difference below
1e-40). Up to the exponential logits are q·k + √D·bias: the products start from the bias, as `pack_bias` leaves it.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LARGEST = tl.constexpr(60000.0)  # of a packed bias: float16 holds it, and the exponential of minus it is zero


@triton.jit
def pack_bias(
    bias_ptr,
    packed_ptr,
    bias_head,
    bias_token,
    bias_key,
    keys,
    slots,
    T: tl.constexpr,
    D: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """(heads, T, keys) → (heads, M, slots), times √D, minus much beyond `keys`; a program has N slots."""
    head = tl.program_id(0)
    token = tl.arange(0, M)[:, None]
    slot = tl.program_id(1) * N + tl.arange(0, N)[None, :]
    packed = tl.zeros((M, N), tl.float32)
    if HAS_BIAS:
        bias = bias_ptr + head * bias_head + token * bias_token + slot * bias_key
        bias = tl.load(bias, (token < T) & (slot < keys), other=0.0).to(tl.float32) * D**0.5
        packed = tl.clamp(bias, -LARGEST, LARGEST, propagate_nan=tl.PropagateNan.ALL)
    packed = tl.where(slot < keys, packed, -LARGEST)
    tl.store(packed_ptr + (head * M + token) * slots + slot, packed.to(packed_ptr.dtype.element_ty))


@triton.jit
def _dot(a, b, acc, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr):
    if INTERPRETED:  # Triton's interpreter multiplies bfloat16's bits as integers
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def _first(window, window_cols, WS: tl.constexpr):
    """A window's first token in the row-major map."""
    return (window // window_cols * window_cols * WS + window % window_cols).to(tl.int64) * WS


@triton.jit
def _rows(
    map_ptr, pooled_ptr, map_stride, pooled_stride, index, slot, FINE: tl.constexpr, D: tl.constexpr, HIP: tl.constexpr
):
    """Keys or values (N, D), read where they lie; zeros where there is no key."""
    fine, seen, index, channel = slot < FINE, index >= 0, index.to(tl.int64), tl.arange(0, D)[None, :]
    if HIP:  # AMD's compiler does not take a choice of pointers, which is a fifth faster on NVIDIA's
        rows = tl.load(map_ptr + (index * map_stride)[:, None] + channel, (seen & fine)[:, None], other=0.0)
        pooled = tl.load(
            pooled_ptr + (index * pooled_stride)[:, None] + channel, (seen & (slot >= FINE))[:, None], other=0.0
        )
        return tl.where(fine[:, None], rows, pooled)
    else:
        row = tl.where(fine, map_ptr, pooled_ptr) + index * tl.where(fine, map_stride, pooled_stride)
        return tl.load(row[:, None] + channel, seen[:, None], other=0.0)


@triton.jit
def _mask(logits, index, slot, query, window, window_rows, window_cols, WS: tl.constexpr, SHIFTED: tl.constexpr):
    """An edge window's logits (M, N), −inf where a query does not see a key."""
    index, slot, query = index[None, :], slot[None, :], query[:, None]
    visible = index >= 0
    if SHIFTED:  # the parts of the map that the roll brought into one window do not see each other's tokens
        rolled: tl.constexpr = WS - WS // 2
        together = (window // window_cols < window_rows - 1) | ((slot // WS >= rolled) == (query // WS >= rolled))
        together &= (window % window_cols < window_cols - 1) | ((slot % WS >= rolled) == (query % WS >= rolled))
        visible = visible & (together | (slot >= WS * WS))
    return tl.where(visible, logits, float('-inf'))


@triton.jit(do_not_specialize=['images', 'window_rows', 'window_cols'])
def attention(
    q_ptr,
    k_ptr,
    v_ptr,
    pk_ptr,
    pv_ptr,
    bias_ptr,
    table_ptr,
    edge_ptr,
    out_ptr,
    lse_ptr,
    q_image,
    q_token,
    q_head,
    k_image,
    k_token,
    k_head,
    v_image,
    v_token,
    v_head,
    pk_image,
    pk_token,
    pk_head,
    pv_image,
    pv_token,
    pv_head,
    images,
    window_rows,
    window_cols,
    heads,
    slots,
    WS: tl.constexpr,
    KEYS: tl.constexpr,
    FINE: tl.constexpr,
    D: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    SHIFTED: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
    HIP: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    # programs near in time share a head, and so its bias in the caches
    window, image, head = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    k_ptr += image * k_image + head * k_head
    v_ptr += image * v_image + head * v_head
    pk_ptr += image * pk_image + head * pk_head
    pv_ptr += image * pv_image + head * pv_head
    table_ptr += window.to(tl.int64) * slots
    edge = tl.load(edge_ptr + window)

    query = tl.arange(0, M)
    live = query < WS * WS
    channel = tl.arange(0, D)[None, :]
    token = query // WS * (window_cols * WS) + query % WS
    first = _first(window, window_cols, WS)
    pixels = window_rows * window_cols * WS * WS
    row = (image * pixels + first) * heads + head + token * heads  # of (images, H, W, heads)
    q_ptr += image * q_image + head * q_head + first * q_token
    q = tl.load(q_ptr + token.to(tl.int64)[:, None] * q_token + channel, live[:, None], other=0.0)
    bias_ptr += head * M * slots + query[:, None] * slots

    scale: tl.constexpr = LOG2E * D**-0.5  # of logits to exponents of 2
    largest = tl.full((M,), -1e38, tl.float32)  # finite: the shift can hide a whole block of keys
    total = tl.zeros((M,), tl.float32)
    acc = tl.zeros((M, D), tl.float32)
    for start in tl.range(0, KEYS, N, num_stages=STAGES):
        slot = start + tl.arange(0, N)
        index = tl.load(table_ptr + slot)
        k = _rows(k_ptr, pk_ptr, k_token, pk_token, index, slot, FINE, D, HIP)
        v = _rows(v_ptr, pv_ptr, v_token, pv_token, index, slot, FINE, D, HIP)
        logits = tl.load(bias_ptr + slot[None, :]).to(tl.float32)
        logits = _dot(q, tl.trans(k), logits, PRECISION, INTERPRETED)
        if edge != 0:
            logits = _mask(logits, index, slot, query, window, window_rows, window_cols, WS, SHIFTED)
        larger = tl.maximum(largest, tl.max(logits, 1))
        weights = tl.exp2(logits * scale - (larger * scale)[:, None])
        rescale = tl.exp2((largest - larger) * scale)
        total = total * rescale + tl.sum(weights, 1)
        acc = _dot(weights.to(v.dtype), v, acc * rescale[:, None], PRECISION, INTERPRETED)
        largest = larger

    tl.store(out_ptr + row[:, None] * D + channel, (acc * (1 / total)[:, None]).to(q.dtype), live[:, None])
    tl.store(lse_ptr + row, largest * D**-0.5 + tl.log2(total) / LOG2E, live)


@triton.jit(do_not_specialize=['images', 'window_rows', 'window_cols'])
def gradients(
    q_ptr,
    k_ptr,
    v_ptr,
    pk_ptr,
    pv_ptr,
    bias_ptr,
    table_ptr,
    edge_ptr,
    out_ptr,
    lse_ptr,
    grad_ptr,
    dq_ptr,
    parts_ptr,
    delta_ptr,
    q_image,
    q_token,
    q_head,
    k_image,
    k_token,
    k_head,
    v_image,
    v_token,
    v_head,
    pk_image,
    pk_token,
    pk_head,
    pv_image,
    pv_token,
    pv_head,
    images,
    window_rows,
    window_cols,
    heads,
    slots,
    dq_image,
    dq_token,
    dq_head,
    WS: tl.constexpr,
    KEYS: tl.constexpr,
    FINE: tl.constexpr,
    D: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    SHIFTED: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
    HIP: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """dq; delta, each query's sum of grad·out; and the window's parts of its keys' gradients, √D·dk and dv.

    The parts are (images, heads, windows, KEYS, 2, D), for `gather_parts`.
    """
    window, image, head = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    k_ptr += image * k_image + head * k_head
    v_ptr += image * v_image + head * v_head
    pk_ptr += image * pk_image + head * pk_head
    pv_ptr += image * pv_image + head * pv_head
    table_ptr += window.to(tl.int64) * slots
    parts_ptr += ((image * heads + head) * (window_rows * window_cols) + window) * (KEYS * 2 * D)
    edge = tl.load(edge_ptr + window)

    query = tl.arange(0, M)
    live = query < WS * WS
    channel = tl.arange(0, D)[None, :]
    token = query // WS * (window_cols * WS) + query % WS
    first = _first(window, window_cols, WS)
    pixels = window_rows * window_cols * WS * WS
    row = (image * pixels + first) * heads + head + token * heads  # of (images, H, W, heads)
    q_ptr += image * q_image + head * q_head + first * q_token
    q = tl.load(q_ptr + token.to(tl.int64)[:, None] * q_token + channel, live[:, None], other=0.0)
    grad = tl.load(grad_ptr + row[:, None] * D + channel, live[:, None], other=0.0)
    out = tl.load(out_ptr + row[:, None] * D + channel, live[:, None], other=0.0)
    delta = tl.sum(grad.to(tl.float32) * out.to(tl.float32), 1)
    tl.store(delta_ptr + row, delta, live)
    lse = tl.load(lse_ptr + row, live, other=float('inf')) * LOG2E  # the rows beyond WS² have no weights
    bias_ptr += head * M * slots + query[:, None] * slots

    dq = tl.zeros((M, D), tl.float32)
    for start in tl.range(0, KEYS, N, num_stages=STAGES):
        slot = start + tl.arange(0, N)
        index = tl.load(table_ptr + slot)
        k = _rows(k_ptr, pk_ptr, k_token, pk_token, index, slot, FINE, D, HIP)
        v = _rows(v_ptr, pv_ptr, v_token, pv_token, index, slot, FINE, D, HIP)
        logits = tl.load(bias_ptr + slot[None, :]).to(tl.float32)
        logits = _dot(q, tl.trans(k), logits, PRECISION, INTERPRETED)
        if edge != 0:
            logits = _mask(logits, index, slot, query, window, window_rows, window_cols, WS, SHIFTED)
        weights = tl.exp2(logits * (LOG2E * D**-0.5) - lse[:, None])
        dv = _dot(tl.trans(weights.to(q.dtype)), grad, tl.zeros((N, D), tl.float32), PRECISION, INTERPRETED)
        dweights = _dot(grad, tl.trans(v), tl.zeros((M, N), tl.float32), PRECISION, INTERPRETED)
        dlogits = (weights * (dweights - delta[:, None])).to(q.dtype)
        dk = _dot(tl.trans(dlogits), q, tl.zeros((N, D), tl.float32), PRECISION, INTERPRETED)
        dq = _dot(dlogits, k, dq, PRECISION, INTERPRETED)
        part = parts_ptr + slot[:, None] * (2 * D) + channel
        tl.store(part, dk.to(q.dtype), (index >= 0)[:, None])
        tl.store(part + D, dv.to(q.dtype), (index >= 0)[:, None])
    dq_ptr += image * dq_image + head * dq_head + (first + token)[:, None] * dq_token + channel
    tl.store(dq_ptr, (dq * D**-0.5).to(q.dtype), live[:, None])


@triton.jit(do_not_specialize=['position', 'tokens', 'parts'])
def gather_parts(
    parts_ptr,
    order_ptr,
    start_ptr,
    dk_ptr,
    dv_ptr,
    dk_image,
    dk_token,
    dk_head,
    dv_image,
    dv_token,
    dv_head,
    position,
    tokens,
    parts,
    heads,
    D: tl.constexpr,
    N: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """dk and dv: each token's sum over the windows that saw it, always in the same order.

    order[start[i]:start[i + 1]] are the rows that the token at position i has in each image's and head's `parts`.
    """
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    image, head = tl.program_id(1).to(tl.int64), tl.program_id(2)
    live = token < tokens
    start = tl.load(start_ptr + position + token, live, other=0)
    end = tl.load(start_ptr + position + token + 1, live, other=0)
    channel = tl.arange(0, D)[None, :]
    parts_ptr += (image * heads + head) * parts * (2 * D)

    dk = tl.zeros((TOKENS, D), tl.float32)
    dv = tl.zeros((TOKENS, D), tl.float32)
    for first in range(0, tl.max(end - start), N):
        for i in tl.static_range(N):  # independent reads, to be in flight together
            seen = start + first + i < end
            row = tl.load(order_ptr + start + first + i, seen, other=0)
            part = parts_ptr + row.to(tl.int64)[:, None] * (2 * D) + channel
            dk += tl.load(part, seen[:, None], other=0.0).to(tl.float32)
            dv += tl.load(part + D, seen[:, None], other=0.0).to(tl.float32)
    token = token.to(tl.int64)[:, None]
    dk_ptr += image * dk_image + head * dk_head + token * dk_token + channel
    dv_ptr += image * dv_image + head * dv_head + token * dv_token + channel
    tl.store(dk_ptr, (dk * D**-0.5).to(dk_ptr.dtype.element_ty), live[:, None])
    tl.store(dv_ptr, dv.to(dv_ptr.dtype.element_ty), live[:, None])


@triton.jit(do_not_specialize=['images', 'window_rows', 'window_cols'])
def bias_gradient(
    q_ptr,
    k_ptr,
    v_ptr,
    pk_ptr,
    pv_ptr,
    bias_ptr,
    table_ptr,
    edge_ptr,
    lse_ptr,
    grad_ptr,
    delta_ptr,
    dbias_ptr,
    q_image,
    q_token,
    q_head,
    k_image,
    k_token,
    k_head,
    v_image,
    v_token,
    v_head,
    pk_image,
    pk_token,
    pk_head,
    pv_image,
    pv_token,
    pv_head,
    images,
    window_rows,
    window_cols,
    heads,
    slots,
    WS: tl.constexpr,
    KEYS: tl.constexpr,
    FINE: tl.constexpr,
    D: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    SHIFTED: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
    HIP: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """(splits, heads, M, slots): the gradients at N keys' logits, summed over each splits-th window of all images."""
    split, head = tl.program_id(0), tl.program_id(2)
    slot = tl.program_id(1) * N + tl.arange(0, N)
    windows = window_rows * window_cols
    q_ptr += head * q_head
    k_ptr += head * k_head
    v_ptr += head * v_head
    pk_ptr += head * pk_head
    pv_ptr += head * pv_head

    query = tl.arange(0, M)
    live = query < WS * WS
    channel = tl.arange(0, D)[None, :]
    token = query // WS * (window_cols * WS) + query % WS
    at = (head * M + query[:, None]) * slots + slot[None, :]
    bias = tl.load(bias_ptr + at)
    dbias = tl.zeros((M, N), tl.float32)
    for i in tl.range(split, images * windows, tl.num_programs(0), num_stages=STAGES):
        image, window = (i // windows).to(tl.int64), i % windows
        first = _first(window, window_cols, WS)
        row = (image * (windows * WS * WS) + first) * heads + head + token * heads  # of (images, H, W, heads)
        q = q_ptr + image * q_image + (first + token)[:, None] * q_token + channel
        q = tl.load(q, live[:, None], other=0.0)
        grad = tl.load(grad_ptr + row[:, None] * D + channel, live[:, None], other=0.0)
        lse = tl.load(lse_ptr + row, live, other=float('inf')) * LOG2E
        delta = tl.load(delta_ptr + row, live, other=0.0)
        index = tl.load(table_ptr + window.to(tl.int64) * slots + slot)
        k = _rows(k_ptr + image * k_image, pk_ptr + image * pk_image, k_token, pk_token, index, slot, FINE, D, HIP)
        v = _rows(v_ptr + image * v_image, pv_ptr + image * pv_image, v_token, pv_token, index, slot, FINE, D, HIP)
        logits = _dot(q, tl.trans(k), bias.to(tl.float32), PRECISION, INTERPRETED)
        if tl.load(edge_ptr + window) != 0:
            logits = _mask(logits, index, slot, query, window, window_rows, window_cols, WS, SHIFTED)
        dweights = _dot(grad, tl.trans(v), tl.zeros((M, N), tl.float32), PRECISION, INTERPRETED)
        dbias += tl.exp2(logits * (LOG2E * D**-0.5) - lse[:, None]) * (dweights - delta[:, None])
    tl.store(dbias_ptr + split.to(tl.int64) * heads * M * slots + at, dbias)


INTERPRETED = not isinstance(attention, triton.runtime.JITFunction)  # TRITON_INTERPRET=1: Python on the CPU
