"""Focal attention on GPUs: keys and values are loaded in place, and forward saves only the log-sum-exp.

Backward runs one program per window, as forward does, which writes dq and the window's partial sums of dk and dv; then
each token adds up the partial sums of the windows that saw it, in a fixed order. No atomics: results are deterministic.
"""

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from triton.runtime import driver

from mmfocal.ops.focal_attention.backends import triton_kernels
from mmfocal.ops.focal_attention.geometry import Layout, cached_per_shape, get_geometry

HEAD_DIMS = (16, 32, 64)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
MAX_WINDOW = 16  # a window's queries are one tile of at most 256 rows
MAX_BLOCK_N = 64  # the keys of a window are padded to a multiple of it
PARTIALS_BYTES = 256 << 20  # images go through backward together as long as their partial sums fit
BIAS_PROGRAMS = 792  # share the gradient of the bias: twice what an H100's 132 SMs hold at a time
SAVES_LSE = True


class Gpu(NamedTuple):
    """What the kernels' blocks depend on.

    Attributes:
        capability: Major compute capability of an NVIDIA GPU; 0 for AMD's, and for the interpreter.
        shared_memory: Most bytes of shared memory per program.
    """

    capability: int
    shared_memory: int


@torch.compiler.assume_constant_result
def get_gpu(device: torch.device) -> Gpu:
    """Returns what the kernels' blocks depend on."""
    if device.type != 'cuda':
        return Gpu(0, 1 << 30)
    # what Triton compares with when it launches a kernel
    shared_memory = driver.active.utils.get_device_properties(device.index)['max_shared_mem']
    return Gpu(0 if torch.version.hip else torch.cuda.get_device_capability(device)[0], shared_memory)


def tuning(kernel: str, block_m: int, head_dim: int, dtype: torch.dtype, gpu: Gpu) -> dict[str, int]:
    """Returns a kernel's block sizes, pipeline stages and launch options; the one place to tune.

    Chosen by the report of ptxas for sm_90: no register spilled (except in float32 gradients of head_dim 64 and windows
    above 8), then the fewest instructions. A window has few blocks of keys: more programs per SM hide latency, where
    pipeline stages would cost registers.

    Args:
        kernel: Name of the kernel.
        block_m: Queries of a window, padded to a power of two.
        head_dim: Channels per head.
        dtype: Dtype of the maps.
        gpu: The GPU.

    Returns:
        BLOCK_N, the keys per step (16, 32 or 64), for all kernels but `sum_partials`; keywords of the launch.
    """
    if kernel == 'sum_partials':
        return dict(BLOCK_M=32, UNROLL=4, num_warps=4)
    if dtype == torch.float32:
        most = 8 if kernel == 'backward' and head_dim < 64 else 16
        return dict(BLOCK_N=16, NUM_STAGES=1, num_warps=min(max(block_m * max(head_dim, 32) // 512, 4), most))
    if block_m > 64:
        return dict(BLOCK_N=32, NUM_STAGES=1, num_warps=block_m // 16)
    options = dict(BLOCK_N=64, NUM_STAGES=1, num_warps=4)
    # one more program per SM, where it does not make ptxas spill
    limits = {('backward', 32, 9): 128, ('backward', 32, 10): 128, ('bias_backward', 64, 9): 168}
    registers = limits.get((kernel, head_dim, gpu.capability))
    if registers:
        options['maxnreg'] = registers
    return options


def shared_memory(block_m: int, head_dim: int, dtype: torch.dtype, gpu: Gpu, tf32: bool = False) -> int:
    """Returns an upper bound of a program's shared memory, in bytes; `backward` needs most.

    Args:
        block_m: Queries of a window, padded to a power of two.
        head_dim: Channels per head.
        dtype: Dtype of the maps.
        gpu: The GPU.
        tf32: Whether products of float32 maps are in TF32.
    """
    block_n = tuning('backward', block_m, head_dim, dtype, gpu)['BLOCK_N']
    queries, keys, logits = block_m * head_dim, block_n * head_dim, block_m * block_n
    if gpu.capability == 0:  # AMD's products take their factors from registers: one tile at a time is rearranged
        return max(max(queries, keys) * dtype.itemsize, logits * 4)
    if tf32:
        tiles = 4 * queries + 4 * keys + logits
    elif dtype != torch.float32 and gpu.capability in (9, 10):  # wgmma and tcgen05 take do and q transposed as well
        tiles = 4 * queries + 2 * keys + logits
    else:
        tiles = 2 * queries + 2 * keys + logits
    return tiles * dtype.itemsize


def pad_queries(layout: Layout) -> int:
    """Returns the queries of a window, padded to the rows of a tile."""
    return max(16, 1 << (layout.tokens - 1).bit_length())


def unsupported(q: Tensor, layout: Layout, dropout_p: float) -> str | None:
    """Returns why this backend cannot take an input, in a phrase; None if it can."""
    if q.dtype not in DTYPES:
        return f'it needs float16, bfloat16 or float32, the maps are {q.dtype}'
    if q.shape[-1] not in HEAD_DIMS:
        return f'it needs a head_dim of {", ".join(map(str, HEAD_DIMS))}, the maps have {q.shape[-1]}'
    if layout.window_size > MAX_WINDOW:
        return f'it needs a window_size of at most {MAX_WINDOW}, got {layout.window_size}'
    if dropout_p > 0:
        return 'it has no dropout'
    if not q.is_cuda and not triton_kernels.INTERPRETED:
        return f'it needs a CUDA device, the maps are on {q.device}'
    gpu = get_gpu(q.device)
    if 0 < gpu.capability < 8:
        return 'it needs a GPU of compute capability 8.0 or more'
    needed = shared_memory(pad_queries(layout), q.shape[-1], q.dtype, gpu)
    if needed > gpu.shared_memory:
        return f'it needs {needed >> 10} KiB of shared memory per block, this GPU has {gpu.shared_memory >> 10}'
    return None


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
        The output, (B, H, W, heads, head_dim), contiguous, in the dtype of q; the log-sum-exp of each query's logits,
        (B, H, W, heads), float32.
    """
    with _on(q.device):
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        lse = torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)
        inputs = _Inputs(q, k, v, pooled_kv, bias, layout)
        inputs.launch('forward', (inputs.windows, inputs.batch, inputs.heads), out, lse)
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
    """Writes the gradients of the maps into the last four arguments and returns the bias' (None unless `bias_grad`)."""
    batch, height, width, heads, head_dim = q.shape
    with _on(q.device):
        inputs = _Inputs(q, k, v, pooled_kv, bias, layout)
        order, starts = _viewers(layout, height, width, q.device)
        grad_out, out, lse = grad_out.contiguous(), out.contiguous(), lse.contiguous()
        delta = torch.empty_like(lse)
        dq = grad_q.view(batch, -1, heads, head_dim)
        dkv = [[x.view(batch, -1, heads, head_dim) for x in pair] for pair in ((grad_k, grad_v), *grad_pooled_kv)]

        rows = inputs.windows * layout.keys
        images_per_pass = max(1, min(batch, PARTIALS_BYTES // (heads * rows * 2 * head_dim * q.element_size())))
        partials = torch.empty(images_per_pass, heads, rows, 2, head_dim, dtype=q.dtype, device=q.device)
        config = tuning('sum_partials', inputs.block_m, head_dim, q.dtype, inputs.gpu)
        for first in range(0, batch, images_per_pass):
            images = slice(first, min(first + images_per_pass, batch))
            count = images.stop - first
            inputs.launch(
                'backward',
                (inputs.windows, count, heads),
                out[images],
                lse[images],
                grad_out[images],
                dq[images],
                partials,
                delta[images],
                images=images,
                strides=dq.stride()[:3],
            )
            position = 0
            for dk, dv in dkv:
                tokens = dk.shape[1]
                triton_kernels.sum_partials[(-(-tokens // config['BLOCK_M']), count, heads)](
                    partials,
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
                    HEAD_DIM=head_dim,
                    **config,
                )
                position += tokens
        if bias is None or not bias_grad:
            return None
        return inputs.bias_gradient(lse, grad_out, delta).to(bias.dtype)


class _Inputs:
    """The inputs of a call as the kernels take them."""

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        pooled_kv: Sequence[tuple[Tensor, Tensor]],
        bias: Tensor | None,
        layout: Layout,
    ):
        self.batch, height, width, self.heads, self.head_dim = q.shape
        self.layout, self.dtype, self.device = layout, q.dtype, q.device
        self.gpu = get_gpu(q.device)
        self.rows, self.cols = height // layout.window_size, width // layout.window_size
        self.windows = self.rows * self.cols
        self.block_m = pad_queries(layout)
        self.table, self.edge = _table(layout, height, width, q.device)
        self.padded_keys = self.table.shape[1]
        self.maps = [_tokens([x]) for x in (q, k, v)]
        self.maps += [_tokens(maps) for maps in zip(*pooled_kv)] or self.maps[1:]  # without levels, never read
        # where the factors of products are rounded to half precision, it suffices for the bias
        self.bias = torch.empty(
            self.heads,
            self.block_m,
            self.padded_keys,
            device=q.device,
            dtype=torch.float32 if q.dtype == torch.float32 else torch.float16,
        )
        triton_kernels.pack_bias[(self.heads, self.padded_keys // MAX_BLOCK_N)](
            self.edge if bias is None else bias,
            self.bias,
            *((0, 0, 0) if bias is None else bias.stride()),
            layout.keys,
            self.padded_keys,
            TOKENS=layout.tokens,
            HEAD_DIM=self.head_dim,
            BLOCK_M=self.block_m,
            BLOCK_N=MAX_BLOCK_N,
            HAS_BIAS=bias is not None,
        )

    def launch(
        self,
        name: str,
        grid: tuple[int, int, int],
        *tensors: Tensor,
        images: slice = slice(None),
        strides: Sequence[int] = (),
    ) -> None:
        """Launches a kernel over the windows of some images; `strides` are those of its output, if it takes them."""
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
            self.padded_keys,
            *strides,
            WINDOW=layout.window_size,
            KEYS=layout.keys,
            FINE_KEYS=layout.tokens + layout.ring,
            HEAD_DIM=self.head_dim,
            BLOCK_M=self.block_m,
            SHIFTED=layout.shifted,
            PRECISION='tf32' if self._tf32() else 'ieee',
            HIP=torch.version.hip is not None,
            INTERPRETED=triton_kernels.INTERPRETED,
            enable_fp_fusion=True,
            **tuning(name, self.block_m, self.head_dim, self.dtype, self.gpu),
        )

    def bias_gradient(self, *tensors: Tensor) -> Tensor:
        """Returns (heads, window_size², keys), float32."""
        block_n = tuning('bias_backward', self.block_m, self.head_dim, self.dtype, self.gpu)['BLOCK_N']
        blocks = -(-self.layout.keys // block_n)
        splits = max(1, min(BIAS_PROGRAMS // (blocks * self.heads), self.windows * self.batch))
        partials = torch.empty(
            splits, self.heads, self.block_m, self.padded_keys, dtype=torch.float32, device=self.device
        )
        self.launch('bias_backward', (splits, blocks, self.heads), *tensors, partials)
        return partials[:, :, : self.layout.tokens, : self.layout.keys].sum(0)

    def _tf32(self) -> bool:
        if self.dtype != torch.float32:
            return False
        needed = shared_memory(self.block_m, self.head_dim, self.dtype, self.gpu, tf32=True)
        if self.block_m * self.head_dim > 8192 or needed > self.gpu.shared_memory:
            return False
        matmul = torch.backends.cuda.matmul
        return matmul.fp32_precision == 'tf32' if hasattr(matmul, 'fp32_precision') else matmul.allow_tf32


def _on(device: torch.device) -> contextlib.AbstractContextManager:
    """Makes a device current: Triton launches there."""
    return torch.cuda.device(device) if device.type == 'cuda' else contextlib.nullcontext()


def _tokens(maps: Sequence[Tensor]) -> Tensor:
    """Maps (B, h, w, heads, head_dim) → their tokens (B, Σ h·w, heads, head_dim), a view if there is one map."""
    flat = [x.flatten(1, 2) for x in maps]
    tokens = flat[0] if len(flat) == 1 else torch.cat(flat, 1)
    return tokens if tokens.stride(-1) == 1 else tokens.contiguous()


@cached_per_shape
def _table(layout: Layout, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns `table`, (n, padded_keys), and `edge`, (n,), of the kernels, int32."""
    geometry = get_geometry(layout, height, width, torch.empty(0, device=device))
    index, outside = geometry.key_index, layout.positions(height, width)
    fine, pooled = index.tensor_split([layout.tokens + layout.ring], 1)
    table = torch.cat([fine, pooled - height * width], 1).masked_fill(index == outside, -1)
    edge = (table < 0).any(1)
    if geometry.shift_kind is not None:
        edge = edge | (geometry.shift_kind > 0)
    return F.pad(table, (0, -layout.keys % MAX_BLOCK_N), value=-1).int(), edge.int()


@cached_per_shape
def _viewers(layout: Layout, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns which windows see a token, as which of their keys.

    Returns:
        order (n·keys,) and starts (positions + 1,), int32: order[starts[i]:starts[i + 1]] are window·keys + key for the
        position i of `Geometry.key_index`.
    """
    index = get_geometry(layout, height, width, torch.empty(0, device=device)).key_index.flatten()
    index, order = index.sort(stable=True)
    starts = torch.searchsorted(index, torch.arange(layout.positions(height, width) + 1, device=device))
    return order.int(), starts.int()
