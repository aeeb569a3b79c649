"""Focal attention on the GPU: keys and values are read where they lie, and forward keeps only the log-sum-exp.

Backward runs a program a window as forward does, which writes dq and the window's parts of its keys' gradients; then each
key's owner gathers the parts of the windows that saw it, in a fixed order. No atomics: the same bits every time.
"""

import contextlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmfocal.ops.focal_attention.backends import triton_kernels
from mmfocal.ops.focal_attention.geometry import Layout, get_geometry, once_a_shape

HEAD_DIMS = (16, 32, 64)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
MAX_WINDOW = 16  # a window's queries are one tile of at most 256 rows
BLOCK = 64  # a window's keys are padded to a multiple of it: the largest N
PARTS_BYTES = 256 << 20  # images go through backward together as long as their parts of gradients fit
BIAS_PROGRAMS = 792  # that share the bias' gradient: twice what an H100's 132 SMs hold at a time


def tuning(kernel: str, rows: int, head_dim: int, dtype: torch.dtype) -> dict:
    """A kernel's block of keys N (16, 32 or 64; reads in flight of `gather_parts`), pipeline stages, launch options.

    The one place to tune; `rows` is M, the queries of a window rounded up. Chosen by what ptxas says for sm_90: no
    register spilled (but in float32 gradients of head_dim 64 and windows above 8), then the fewest instructions. A
    window has few blocks of keys: more programs an SM hide latency, where a pipeline's stages would cost registers.
    """
    if kernel == 'gather_parts':
        return dict(TOKENS=32, N=4, num_warps=4)
    if dtype == torch.float32:
        most = 8 if kernel == 'gradients' and head_dim < 64 else 16
        return dict(N=16, STAGES=1, num_warps=min(max(rows * max(head_dim, 32) // 512, 4), most))
    if rows > 64:
        return dict(N=32, STAGES=1, num_warps=rows // 16)
    options = dict(N=64, STAGES=1, num_warps=4)
    registers = {('gradients', 32): 128, ('bias_gradient', 64): 168}.get((kernel, head_dim))  # one more program an SM
    if registers and torch.version.hip is None:
        options['maxnreg'] = registers
    return options


def unsupported(q: Tensor, layout: Layout, dropout_p: float) -> str | None:
    """Why this backend cannot take an input.

    Args:
        q (Tensor): The queries, (B, H, W, heads, head_dim); keys and values are like them.
        layout (Layout): The attention pattern.
        dropout_p (float): Dropout on the attention weights.

    Returns:
        str, optional: The reason, in a phrase; None if the backend takes it.
    """
    if q.dtype not in DTYPES:
        return f'needs float16, bfloat16 or float32, the maps are {q.dtype}'
    if q.shape[-1] not in HEAD_DIMS:
        return f'needs a head_dim of {", ".join(map(str, HEAD_DIMS))}, the maps have {q.shape[-1]}'
    if layout.window_size > MAX_WINDOW:
        return f'needs a window_size of at most {MAX_WINDOW}, got {layout.window_size}'
    if dropout_p > 0:
        return f'has no dropout, dropout_p is {dropout_p}'
    if not q.is_cuda and not triton_kernels.INTERPRETED:
        return f'needs a CUDA device, the maps are on {q.device}'
    if q.is_cuda and torch.version.hip is None and torch.cuda.get_device_capability(q.device) < (8, 0):
        return 'needs a GPU of compute capability 8.0 or more'
    return None


def forward(
    q: Tensor, k: Tensor, v: Tensor, pooled_kv: Sequence[tuple[Tensor, Tensor]], bias: Tensor | None, layout: Layout
) -> tuple[Tensor, Tensor]:
    """Focal attention without autograd; see `focal_attention` for the arguments.

    Returns:
        Tuple[Tensor, Tensor]: The output, (B, H, W, heads, head_dim), contiguous, in q's dtype; the natural logarithm of
        each query's sum of exponentials, (B, H, W, heads), float32.
    """
    with _on(q.device):
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        lse = torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)
        inputs = _Inputs(q, k, v, pooled_kv, bias, layout)
        inputs.run('attention', (inputs.windows, inputs.batch, inputs.heads), out, lse)
    return out, lse


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
    batch, height, width, heads, head_dim = q.shape
    with _on(q.device):
        inputs = _Inputs(q, k, v, pooled_kv, bias, layout)
        order, starts = _viewers(layout, height, width, q.device)
        grad_out, out, lse = grad_out.contiguous(), out.contiguous(), lse.contiguous()
        delta = torch.empty_like(lse)
        dq = grad_q.view(batch, -1, heads, head_dim)
        dkv = [[x.view(batch, -1, heads, head_dim) for x in pair] for pair in ((grad_k, grad_v), *grad_pooled_kv)]

        rows = inputs.windows * layout.keys
        step = max(1, min(batch, PARTS_BYTES // (heads * rows * 2 * head_dim * q.element_size())))
        parts = torch.empty(step, heads, rows, 2, head_dim, dtype=q.dtype, device=q.device)
        config = tuning('gather_parts', inputs.tile, head_dim, q.dtype)
        for first in range(0, batch, step):
            images = slice(first, min(first + step, batch))
            count = images.stop - first
            inputs.run(
                'gradients',
                (inputs.windows, count, heads),
                out[images],
                lse[images],
                grad_out[images],
                dq[images],
                parts,
                delta[images],
                images=images,
                strides=dq.stride()[:3],
            )
            position = 0
            for dk, dv in dkv:
                tokens = dk.shape[1]
                triton_kernels.gather_parts[(-(-tokens // config['TOKENS']), count, heads)](
                    parts,
                    order,
                    starts,
                    dk[images],
                    dv[images],
                    *dk.stride()[:3],
                    *dv.stride()[:3],
                    position,
                    tokens,
                    rows,
                    heads,
                    D=head_dim,
                    **config,
                )
                position += tokens
        return inputs.bias_gradient(lse, grad_out, delta).to(bias.dtype) if bias_grad else None


class _Inputs:
    """A call's inputs as the kernels take them."""

    def __init__(self, q, k, v, pooled_kv, bias, layout):
        self.batch, height, width, self.heads, self.head_dim = q.shape
        self.layout, self.dtype, self.device = layout, q.dtype, q.device
        self.rows, self.cols = height // layout.window_size, width // layout.window_size
        self.windows = self.rows * self.cols
        self.tile = max(16, 1 << (layout.tokens - 1).bit_length())  # M
        self.table, self.edge = _table(layout, height, width, q.device)
        self.slots = self.table.shape[1]
        self.maps = [_tokens([x]) for x in (q, k, v)]
        self.maps += [_tokens(maps) for maps in zip(*pooled_kv)] or self.maps[1:]  # without levels, never read
        # where products' factors are rounded to half precision, it does for the bias
        self.bias = torch.empty(
            self.heads,
            self.tile,
            self.slots,
            device=q.device,
            dtype=torch.float32 if q.dtype == torch.float32 else torch.float16,
        )
        triton_kernels.pack_bias[(self.heads, self.slots // BLOCK)](
            self.edge if bias is None else bias,
            self.bias,
            *((0, 0, 0) if bias is None else bias.stride()),
            layout.keys,
            self.slots,
            T=layout.tokens,
            D=self.head_dim,
            M=self.tile,
            N=BLOCK,
            HAS_BIAS=bias is not None,
        )

    def run(self, name, grid, *tensors, images=slice(None), strides=()):
        """Launches a kernel over the windows of some images; `strides` are those of its output, where it takes them."""
        layout, maps = self.layout, [x[images] for x in self.maps]
        getattr(triton_kernels, name)[grid](
            *maps,
            self.bias,
            self.table,
            self.edge,
            *tensors,
            *(stride for x in maps for stride in x.stride()[:3]),
            len(maps[0]),
            self.rows,
            self.cols,
            self.heads,
            self.slots,
            *strides,
            WS=layout.window_size,
            KEYS=layout.keys,
            FINE=layout.tokens + layout.ring,
            D=self.head_dim,
            M=self.tile,
            SHIFTED=layout.shifted,
            PRECISION='tf32' if self._tf32() else 'ieee',
            HIP=torch.version.hip is not None,
            INTERPRETED=triton_kernels.INTERPRETED,
            enable_fp_fusion=True,
            **tuning(name, self.tile, self.head_dim, self.dtype),
        )

    def bias_gradient(self, *tensors):
        """(heads, window_size², keys), float32."""
        blocks = -(-self.layout.keys // tuning('bias_gradient', self.tile, self.head_dim, self.dtype)['N'])
        splits = max(1, min(BIAS_PROGRAMS // (blocks * self.heads), self.windows * self.batch))
        parts = torch.empty(splits, self.heads, self.tile, self.slots, dtype=torch.float32, device=self.device)
        self.run('bias_gradient', (splits, blocks, self.heads), *tensors, parts)
        return parts[:, :, : self.layout.tokens, : self.layout.keys].sum(0)

    def _tf32(self):
        if self.dtype != torch.float32 or self.tile * self.head_dim > 8192:  # more shared memory than an SM has
            return False
        matmul = torch.backends.cuda.matmul
        return matmul.fp32_precision == 'tf32' if hasattr(matmul, 'fp32_precision') else matmul.allow_tf32


def _on(device):
    """Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == 'cuda' else contextlib.nullcontext()


def _tokens(maps):
    """Maps (B, h, w, heads, head_dim) → their tokens (B, Σ h·w, heads, head_dim): a view of a single map."""
    tokens = [x.flatten(1, 2) for x in maps]
    tokens = tokens[0] if len(tokens) == 1 else torch.cat(tokens, 1)
    return tokens if tokens.stride(-1) == 1 else tokens.contiguous()


@once_a_shape
def _table(layout, height, width, device):
    """`table`, (n, slots), and `edge`, (n,), of the kernels, int32."""
    geometry = get_geometry(layout, height, width, torch.empty(0, device=device))
    index, outside = geometry.key_index, layout.positions(height, width)
    fine, pooled = index.tensor_split([layout.tokens + layout.ring], 1)
    table = torch.cat([fine, pooled - height * width], 1).masked_fill(index == outside, -1)
    edge = (table < 0).any(1)
    if layout.shifted:
        edge = edge | (geometry.shift_kind > 0)
    return F.pad(table, (0, -layout.keys % BLOCK), value=-1).int(), edge.int()


@once_a_shape
def _viewers(layout, height, width, device):
    """Which windows see a token, as which of their keys.

    Returns:
        Tuple[Tensor, Tensor]: order (n·keys,) and starts (positions + 1,), int32: order[starts[i]:starts[i + 1]] are
        window·keys + key for the position i of `Geometry.key_index`.
    """
    index = get_geometry(layout, height, width, torch.empty(0, device=device)).key_index.flatten()
    index, order = index.sort(stable=True)
    starts = torch.searchsorted(index, torch.arange(layout.positions(height, width) + 1, device=device))
    return order.int(), starts.int()
