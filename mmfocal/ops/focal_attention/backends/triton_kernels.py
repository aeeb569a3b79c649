"""The GPU kernels of focal attention. A program of `forward` and `backward` is one window of one head of one image.

A window has WINDOW² queries, padded to BLOCK_M, and KEYS keys, padded to `padded_keys` and loaded BLOCK_N at a time.
table[window, key] is a token of the map (key < FINE_KEYS), a pooled token, or −1: no key. edge[window] says whether
masks are needed: a key is −1, or Swin's mask applies. Masked logits are −inf, also where the definition lowers them
by 100 (a difference below 1e-40). Up to the exponential, logits are q·k + √HEAD_DIM·bias: products add to the packed
bias.

Suffixes of strides: b image, m query, n key, h head. offs_m are queries of a window, offs_n its keys, offs_d channels.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
MAX_BIAS = tl.constexpr(60000.0)  # finite in float16, and exp(−MAX_BIAS) is zero


@triton.jit
def pack_bias(
    bias_ptr,
    packed_ptr,
    stride_bh,
    stride_bm,
    stride_bn,
    keys,
    padded_keys,
    TOKENS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """(heads, TOKENS, keys) → (heads, BLOCK_M, padded_keys), times √HEAD_DIM; −MAX_BIAS beyond `keys`."""
    head = tl.program_id(0)
    token = tl.arange(0, BLOCK_M)[:, None]
    offs_n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    packed = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if HAS_BIAS:
        bias = bias_ptr + head * stride_bh + token * stride_bm + offs_n * stride_bn
        bias = tl.load(bias, (token < TOKENS) & (offs_n < keys), other=0.0).to(tl.float32) * HEAD_DIM**0.5
        packed = tl.clamp(bias, -MAX_BIAS, MAX_BIAS, propagate_nan=tl.PropagateNan.ALL)
    packed = tl.where(offs_n < keys, packed, -MAX_BIAS)
    tl.store(packed_ptr + (head * BLOCK_M + token) * padded_keys + offs_n, packed.to(packed_ptr.dtype.element_ty))


@triton.jit
def _dot(a, b, acc, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr):
    if INTERPRETED:  # Triton's interpreter multiplies bfloat16's bits as integers
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def _first_token(window, window_cols, WINDOW: tl.constexpr):
    """Returns a window's first token in the row-major map."""
    return (window // window_cols * window_cols * WINDOW + window % window_cols).to(tl.int64) * WINDOW


@triton.jit
def _load_rows(
    map_ptr,
    pooled_ptr,
    stride_map,
    stride_pooled,
    index,
    offs_n,
    FINE_KEYS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HIP: tl.constexpr,
):
    """Loads keys or values (BLOCK_N, HEAD_DIM) in place; zeros where there is no key."""
    fine, seen, index, offs_d = offs_n < FINE_KEYS, index >= 0, index.to(tl.int64), tl.arange(0, HEAD_DIM)[None, :]
    if HIP:  # AMD's compiler cannot select between pointers, which is a fifth faster on NVIDIA's
        rows = tl.load(map_ptr + (index * stride_map)[:, None] + offs_d, (seen & fine)[:, None], other=0.0)
        pooled = tl.load(
            pooled_ptr + (index * stride_pooled)[:, None] + offs_d, (seen & (offs_n >= FINE_KEYS))[:, None], other=0.0
        )
        return tl.where(fine[:, None], rows, pooled)
    else:
        row = tl.where(fine, map_ptr, pooled_ptr) + index * tl.where(fine, stride_map, stride_pooled)
        return tl.load(row[:, None] + offs_d, seen[:, None], other=0.0)


@triton.jit
def _mask_edge(
    qk, index, offs_n, offs_m, window, window_rows, window_cols, WINDOW: tl.constexpr, SHIFTED: tl.constexpr
):
    """Masks an edge window's logits (BLOCK_M, BLOCK_N): −inf where a query does not see a key."""
    index, offs_n, offs_m = index[None, :], offs_n[None, :], offs_m[:, None]
    visible = index >= 0
    if SHIFTED:  # tokens that only the roll brought into one window do not see each other
        rolled: tl.constexpr = WINDOW - WINDOW // 2
        together = (window // window_cols < window_rows - 1) | (
            (offs_n // WINDOW >= rolled) == (offs_m // WINDOW >= rolled)
        )
        together &= (window % window_cols < window_cols - 1) | (
            (offs_n % WINDOW >= rolled) == (offs_m % WINDOW >= rolled)
        )
        visible = visible & (together | (offs_n >= WINDOW * WINDOW))
    return tl.where(visible, qk, float('-inf'))


@triton.jit(do_not_specialize=['images', 'window_rows', 'window_cols'])
def forward(
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
    stride_qb,
    stride_qm,
    stride_qh,
    stride_kb,
    stride_kn,
    stride_kh,
    stride_vb,
    stride_vn,
    stride_vh,
    stride_pkb,
    stride_pkn,
    stride_pkh,
    stride_pvb,
    stride_pvn,
    stride_pvh,
    images,
    window_rows,
    window_cols,
    heads,
    padded_keys,
    WINDOW: tl.constexpr,
    KEYS: tl.constexpr,
    FINE_KEYS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SHIFTED: tl.constexpr,
    NUM_STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
    HIP: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    # programs that run together share a head, and so its bias in the caches
    window, image, head = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    k_ptr += image * stride_kb + head * stride_kh
    v_ptr += image * stride_vb + head * stride_vh
    pk_ptr += image * stride_pkb + head * stride_pkh
    pv_ptr += image * stride_pvb + head * stride_pvh
    table_ptr += window.to(tl.int64) * padded_keys
    edge = tl.load(edge_ptr + window)

    offs_m = tl.arange(0, BLOCK_M)
    mask_m = offs_m < WINDOW * WINDOW
    offs_d = tl.arange(0, HEAD_DIM)[None, :]
    token = offs_m // WINDOW * (window_cols * WINDOW) + offs_m % WINDOW
    first = _first_token(window, window_cols, WINDOW)
    pixels = window_rows * window_cols * WINDOW * WINDOW
    row = (image * pixels + first) * heads + head + token * heads  # of (images, H, W, heads)
    q_ptr += image * stride_qb + head * stride_qh + first * stride_qm
    q = tl.load(q_ptr + token.to(tl.int64)[:, None] * stride_qm + offs_d, mask_m[:, None], other=0.0)
    bias_ptr += head * BLOCK_M * padded_keys + offs_m[:, None] * padded_keys

    scale: tl.constexpr = LOG2E * HEAD_DIM**-0.5  # of logits to exponents of 2
    m_i = tl.full((BLOCK_M,), -1e38, tl.float32)  # finite: the shift can mask a whole block of keys
    l_i = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, HEAD_DIM), tl.float32)
    for start_n in tl.range(0, KEYS, BLOCK_N, num_stages=NUM_STAGES):
        offs_n = start_n + tl.arange(0, BLOCK_N)
        index = tl.load(table_ptr + offs_n)
        k = _load_rows(k_ptr, pk_ptr, stride_kn, stride_pkn, index, offs_n, FINE_KEYS, HEAD_DIM, HIP)
        v = _load_rows(v_ptr, pv_ptr, stride_vn, stride_pvn, index, offs_n, FINE_KEYS, HEAD_DIM, HIP)
        qk = tl.load(bias_ptr + offs_n[None, :]).to(tl.float32)
        qk = _dot(q, tl.trans(k), qk, PRECISION, INTERPRETED)
        if edge != 0:
            qk = _mask_edge(qk, index, offs_n, offs_m, window, window_rows, window_cols, WINDOW, SHIFTED)
        m_new = tl.maximum(m_i, tl.max(qk, 1))
        p = tl.exp2(qk * scale - (m_new * scale)[:, None])
        alpha = tl.exp2((m_i - m_new) * scale)
        l_i = l_i * alpha + tl.sum(p, 1)
        acc = _dot(p.to(v.dtype), v, acc * alpha[:, None], PRECISION, INTERPRETED)
        m_i = m_new

    tl.store(out_ptr + row[:, None] * HEAD_DIM + offs_d, (acc * (1 / l_i)[:, None]).to(q.dtype), mask_m[:, None])
    tl.store(lse_ptr + row, m_i * HEAD_DIM**-0.5 + tl.log2(l_i) / LOG2E, mask_m)


@triton.jit(do_not_specialize=['images', 'window_rows', 'window_cols'])
def backward(
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
    do_ptr,
    dq_ptr,
    partials_ptr,
    delta_ptr,
    stride_qb,
    stride_qm,
    stride_qh,
    stride_kb,
    stride_kn,
    stride_kh,
    stride_vb,
    stride_vn,
    stride_vh,
    stride_pkb,
    stride_pkn,
    stride_pkh,
    stride_pvb,
    stride_pvn,
    stride_pvh,
    images,
    window_rows,
    window_cols,
    heads,
    padded_keys,
    stride_dqb,
    stride_dqm,
    stride_dqh,
    WINDOW: tl.constexpr,
    KEYS: tl.constexpr,
    FINE_KEYS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SHIFTED: tl.constexpr,
    NUM_STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
    HIP: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """dq; delta, each query's sum of do·out; and the window's partial sums √HEAD_DIM·dk and dv of its keys.

    The partial sums are (images, heads, windows, KEYS, 2, HEAD_DIM), for `sum_partials`.
    """
    window, image, head = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    k_ptr += image * stride_kb + head * stride_kh
    v_ptr += image * stride_vb + head * stride_vh
    pk_ptr += image * stride_pkb + head * stride_pkh
    pv_ptr += image * stride_pvb + head * stride_pvh
    table_ptr += window.to(tl.int64) * padded_keys
    partials_ptr += ((image * heads + head) * (window_rows * window_cols) + window) * (KEYS * 2 * HEAD_DIM)
    edge = tl.load(edge_ptr + window)

    offs_m = tl.arange(0, BLOCK_M)
    mask_m = offs_m < WINDOW * WINDOW
    offs_d = tl.arange(0, HEAD_DIM)[None, :]
    token = offs_m // WINDOW * (window_cols * WINDOW) + offs_m % WINDOW
    first = _first_token(window, window_cols, WINDOW)
    pixels = window_rows * window_cols * WINDOW * WINDOW
    row = (image * pixels + first) * heads + head + token * heads  # of (images, H, W, heads)
    q_ptr += image * stride_qb + head * stride_qh + first * stride_qm
    q = tl.load(q_ptr + token.to(tl.int64)[:, None] * stride_qm + offs_d, mask_m[:, None], other=0.0)
    do = tl.load(do_ptr + row[:, None] * HEAD_DIM + offs_d, mask_m[:, None], other=0.0)
    out = tl.load(out_ptr + row[:, None] * HEAD_DIM + offs_d, mask_m[:, None], other=0.0)
    delta = tl.sum(do.to(tl.float32) * out.to(tl.float32), 1)
    tl.store(delta_ptr + row, delta, mask_m)
    lse = tl.load(lse_ptr + row, mask_m, other=float('inf')) * LOG2E  # rows beyond WINDOW² have no weights
    bias_ptr += head * BLOCK_M * padded_keys + offs_m[:, None] * padded_keys

    dq = tl.zeros((BLOCK_M, HEAD_DIM), tl.float32)
    for start_n in tl.range(0, KEYS, BLOCK_N, num_stages=NUM_STAGES):
        offs_n = start_n + tl.arange(0, BLOCK_N)
        index = tl.load(table_ptr + offs_n)
        k = _load_rows(k_ptr, pk_ptr, stride_kn, stride_pkn, index, offs_n, FINE_KEYS, HEAD_DIM, HIP)
        v = _load_rows(v_ptr, pv_ptr, stride_vn, stride_pvn, index, offs_n, FINE_KEYS, HEAD_DIM, HIP)
        qk = tl.load(bias_ptr + offs_n[None, :]).to(tl.float32)
        qk = _dot(q, tl.trans(k), qk, PRECISION, INTERPRETED)
        if edge != 0:
            qk = _mask_edge(qk, index, offs_n, offs_m, window, window_rows, window_cols, WINDOW, SHIFTED)
        p = tl.exp2(qk * (LOG2E * HEAD_DIM**-0.5) - lse[:, None])
        dv = _dot(tl.trans(p.to(q.dtype)), do, tl.zeros((BLOCK_N, HEAD_DIM), tl.float32), PRECISION, INTERPRETED)
        dp = _dot(do, tl.trans(v), tl.zeros((BLOCK_M, BLOCK_N), tl.float32), PRECISION, INTERPRETED)
        ds = (p * (dp - delta[:, None])).to(q.dtype)
        dk = _dot(tl.trans(ds), q, tl.zeros((BLOCK_N, HEAD_DIM), tl.float32), PRECISION, INTERPRETED)
        dq = _dot(ds, k, dq, PRECISION, INTERPRETED)
        part = partials_ptr + offs_n[:, None] * (2 * HEAD_DIM) + offs_d
        tl.store(part, dk.to(q.dtype), (index >= 0)[:, None])
        tl.store(part + HEAD_DIM, dv.to(q.dtype), (index >= 0)[:, None])
    dq_ptr += image * stride_dqb + head * stride_dqh + (first + token)[:, None] * stride_dqm + offs_d
    tl.store(dq_ptr, (dq * HEAD_DIM**-0.5).to(q.dtype), mask_m[:, None])


@triton.jit(do_not_specialize=['position', 'tokens', 'rows'])
def sum_partials(
    partials_ptr,
    order_ptr,
    start_ptr,
    dk_ptr,
    dv_ptr,
    stride_dkb,
    stride_dkn,
    stride_dkh,
    stride_dvb,
    stride_dvn,
    stride_dvh,
    position,
    tokens,
    rows,
    heads,
    HEAD_DIM: tl.constexpr,
    UNROLL: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """dk and dv: the sum of each token's partial sums over the windows that saw it, always in the same order.

    order[start[i]:start[i + 1]] are the rows of the token at position i in the partial sums of an image and head.
    """
    token = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    image, head = tl.program_id(1).to(tl.int64), tl.program_id(2)
    mask = token < tokens
    start = tl.load(start_ptr + position + token, mask, other=0)
    end = tl.load(start_ptr + position + token + 1, mask, other=0)
    offs_d = tl.arange(0, HEAD_DIM)[None, :]
    partials_ptr += (image * heads + head) * rows * (2 * HEAD_DIM)

    dk = tl.zeros((BLOCK_M, HEAD_DIM), tl.float32)
    dv = tl.zeros((BLOCK_M, HEAD_DIM), tl.float32)
    for first in range(0, tl.max(end - start), UNROLL):
        for i in tl.static_range(UNROLL):  # independent loads, in flight together
            mask_i = start + first + i < end
            row = tl.load(order_ptr + start + first + i, mask_i, other=0)
            part = partials_ptr + row.to(tl.int64)[:, None] * (2 * HEAD_DIM) + offs_d
            dk += tl.load(part, mask_i[:, None], other=0.0).to(tl.float32)
            dv += tl.load(part + HEAD_DIM, mask_i[:, None], other=0.0).to(tl.float32)
    token = token.to(tl.int64)[:, None]
    dk_ptr += image * stride_dkb + head * stride_dkh + token * stride_dkn + offs_d
    dv_ptr += image * stride_dvb + head * stride_dvh + token * stride_dvn + offs_d
    tl.store(dk_ptr, (dk * HEAD_DIM**-0.5).to(dk_ptr.dtype.element_ty), mask[:, None])
    tl.store(dv_ptr, dv.to(dv_ptr.dtype.element_ty), mask[:, None])


@triton.jit(do_not_specialize=['images', 'window_rows', 'window_cols'])
def bias_backward(
    q_ptr,
    k_ptr,
    v_ptr,
    pk_ptr,
    pv_ptr,
    bias_ptr,
    table_ptr,
    edge_ptr,
    lse_ptr,
    do_ptr,
    delta_ptr,
    dbias_ptr,
    stride_qb,
    stride_qm,
    stride_qh,
    stride_kb,
    stride_kn,
    stride_kh,
    stride_vb,
    stride_vn,
    stride_vh,
    stride_pkb,
    stride_pkn,
    stride_pkh,
    stride_pvb,
    stride_pvn,
    stride_pvh,
    images,
    window_rows,
    window_cols,
    heads,
    padded_keys,
    WINDOW: tl.constexpr,
    KEYS: tl.constexpr,
    FINE_KEYS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SHIFTED: tl.constexpr,
    NUM_STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
    HIP: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """(splits, heads, BLOCK_M, padded_keys): gradients at the logits, summed over every splits-th window."""
    split, head = tl.program_id(0), tl.program_id(2)
    offs_n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    windows = window_rows * window_cols
    q_ptr += head * stride_qh
    k_ptr += head * stride_kh
    v_ptr += head * stride_vh
    pk_ptr += head * stride_pkh
    pv_ptr += head * stride_pvh

    offs_m = tl.arange(0, BLOCK_M)
    mask_m = offs_m < WINDOW * WINDOW
    offs_d = tl.arange(0, HEAD_DIM)[None, :]
    token = offs_m // WINDOW * (window_cols * WINDOW) + offs_m % WINDOW
    at = (head * BLOCK_M + offs_m[:, None]) * padded_keys + offs_n[None, :]
    bias = tl.load(bias_ptr + at)
    dbias = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for i in tl.range(split, images * windows, tl.num_programs(0), num_stages=NUM_STAGES):
        image, window = (i // windows).to(tl.int64), i % windows
        first = _first_token(window, window_cols, WINDOW)
        row = (image * (windows * WINDOW * WINDOW) + first) * heads + head + token * heads  # of (images, H, W, heads)
        q = q_ptr + image * stride_qb + (first + token)[:, None] * stride_qm + offs_d
        q = tl.load(q, mask_m[:, None], other=0.0)
        do = tl.load(do_ptr + row[:, None] * HEAD_DIM + offs_d, mask_m[:, None], other=0.0)
        lse = tl.load(lse_ptr + row, mask_m, other=float('inf')) * LOG2E
        delta = tl.load(delta_ptr + row, mask_m, other=0.0)
        index = tl.load(table_ptr + window.to(tl.int64) * padded_keys + offs_n)
        k = _load_rows(
            k_ptr + image * stride_kb,
            pk_ptr + image * stride_pkb,
            stride_kn,
            stride_pkn,
            index,
            offs_n,
            FINE_KEYS,
            HEAD_DIM,
            HIP,
        )
        v = _load_rows(
            v_ptr + image * stride_vb,
            pv_ptr + image * stride_pvb,
            stride_vn,
            stride_pvn,
            index,
            offs_n,
            FINE_KEYS,
            HEAD_DIM,
            HIP,
        )
        qk = _dot(q, tl.trans(k), bias.to(tl.float32), PRECISION, INTERPRETED)
        if tl.load(edge_ptr + window) != 0:
            qk = _mask_edge(qk, index, offs_n, offs_m, window, window_rows, window_cols, WINDOW, SHIFTED)
        dp = _dot(do, tl.trans(v), tl.zeros((BLOCK_M, BLOCK_N), tl.float32), PRECISION, INTERPRETED)
        dbias += tl.exp2(qk * (LOG2E * HEAD_DIM**-0.5) - lse[:, None]) * (dp - delta[:, None])
    tl.store(dbias_ptr + split.to(tl.int64) * heads * BLOCK_M * padded_keys + at, dbias)


INTERPRETED = not isinstance(forward, triton.runtime.JITFunction)  # TRITON_INTERPRET=1: Python on the CPU
