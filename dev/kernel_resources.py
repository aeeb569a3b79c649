"""Compiles the attention kernels for GPUs that need not be there; prints their shared memory, registers and spills."""

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from mmfocal.ops.focal_attention.backends import triton as backend
from mmfocal.ops.focal_attention.geometry import Layout
from mmfocal.text import format_table

KIB = 1024
ARCHS = {  # the target, and the KiB of shared memory that a program may have
    'sm_80': (GPUTarget('cuda', 80, 32), 163),  # A100
    'sm_86': (GPUTarget('cuda', 86, 32), 99),  # RTX 30
    'sm_89': (GPUTarget('cuda', 89, 32), 99),  # RTX 40
    'sm_90': (GPUTarget('cuda', 90, 32), 227),  # H100
    'sm_100': (GPUTarget('cuda', 100, 32), 227),  # B200
    'sm_120': (GPUTarget('cuda', 120, 32), 99),  # RTX 50
    'gfx942': (GPUTarget('hip', 'gfx942', 64), 64),  # MI300
    'gfx1100': (GPUTarget('hip', 'gfx1100', 32), 64),  # RX 7900
}
DTYPES = {'bfloat16': torch.bfloat16, 'float32': torch.float32, 'tf32': torch.float32}
KERNELS = ('pack_bias', 'forward', 'backward', 'sum_partials', 'bias_backward')
PRODUCTS = re.compile(r'\b(wgmma|tcgen05\.mma|mma\.sync|v_mfma|v_wmma)')


class Recorder:
    """A kernel that is compiled in place of being launched."""

    def __init__(self, kernel: triton.JITFunction, compiled: list[dict[str, Any]]):
        self.kernel, self.compiled = kernel, compiled

    def __getitem__(self, grid):
        return lambda *args, **kwargs: self._compile(self.kernel.warmup(*args, grid=grid, **kwargs))

    def _compile(self, kernel: triton.compiler.CompiledKernel) -> None:
        self.compiled.append(
            dict(
                kernel=self.kernel.__name__,
                shared=kernel.metadata.shared,
                tensor_memory=getattr(kernel.metadata, 'tmem_size', None) or 0,  # columns, of 512
                **(_of_cubin(kernel.asm) if 'cubin' in kernel.asm else _of_gcn(kernel.asm)),
            )
        )


def _of_cubin(asm: dict) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        Path(file.name).write_bytes(asm['cubin'])
        command = [triton.knobs.nvidia.cuobjdump.path, '--dump-resource-usage', file.name]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = re.search(r'REG:(\d+) STACK:(\d+)', report).groups()
    return dict(registers=int(registers), spilled=int(stack), products=_products(asm['ptx']))


def _of_gcn(asm: dict) -> dict[str, Any]:
    found = {name: int(value) for name, value in re.findall(r'\.(\w+):\s+(\d+)\n', asm['amdgcn'])}
    return dict(
        registers=found['vgpr_count'],
        spilled=found['private_segment_fixed_size'],
        products=_products(asm['amdgcn']),
    )


def _products(text: str) -> str:
    return ' '.join(sorted(set(PRODUCTS.findall(text))))


class NoGpu:
    """Triton's driver of a GPU that is not there."""

    def __init__(self, target: GPUTarget):
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_for(arch: str, window_size: int, head_dim: int, dtype: str) -> tuple[int, list[dict[str, Any]]]:
    """Compiles all kernels of one input.

    Returns:
        The backend's own estimate of the shared memory, in bytes; for each kernel its name, shared memory in bytes,
        registers and spilled bytes per thread, and the instructions of its products. No kernels if the backend does
        not take the input.
    """
    target, shared = ARCHS[arch]
    torch.version.hip = '6.4' if target.backend == 'hip' else None
    torch.backends.cuda.matmul.allow_tf32 = dtype == 'tf32'
    gpu = backend.Gpu(target.arch // 10 if target.backend == 'cuda' else 0, shared * KIB)
    backend.get_gpu = lambda device: gpu
    driver.set_active(NoGpu(target))

    # windows at the border, shifted, with a pooled level: no variant of the kernels does more
    layout = Layout(window_size, 1, 1, 1, 'mask', True)
    side = 2 * window_size
    q, k, v = torch.zeros(1, side, side, 3, 1, head_dim, dtype=DTYPES[dtype]).unbind(3)
    estimate = backend.shared_memory(backend.pad_queries(layout), head_dim, q.dtype, gpu)
    if estimate > gpu.shared_memory:
        return estimate, []
    if dtype == 'tf32':  # which the backend takes where it fits
        with_tf32 = backend.shared_memory(backend.pad_queries(layout), head_dim, q.dtype, gpu, tf32=True)
        estimate = with_tf32 if with_tf32 <= gpu.shared_memory else estimate
    pooled = [torch.zeros(1, 2, 2, 2, 1, head_dim, dtype=q.dtype).unbind(3)]
    bias = torch.zeros(1, layout.tokens, layout.keys)
    compiled: list[dict[str, Any]] = []
    kernels = {name: getattr(backend.triton_kernels, name) for name in KERNELS}
    for name, kernel in kernels.items():
        kernel.device_caches.clear()  # of the target before
        setattr(backend.triton_kernels, name, Recorder(kernel, compiled))
    try:
        out, lse = backend.forward(q, k, v, pooled, bias, layout)
        backend.backward(out, q, k, v, pooled, bias, out, lse, layout, True, q, k, v, pooled)
    finally:
        for name, kernel in kernels.items():
            setattr(backend.triton_kernels, name, kernel)
    return estimate, list({one['kernel']: one for one in compiled}.values())


def measure(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields a record per architecture and input."""
    for arch in args.arch:
        for dtype in args.dtype:
            for window_size in args.window:
                for head_dim in args.head_dim:
                    estimate, kernels = compile_for(arch, window_size, head_dim, dtype)
                    yield dict(
                        arch=arch,
                        dtype=dtype,
                        window=window_size,
                        head_dim=head_dim,
                        estimate=estimate,
                        limit=ARCHS[arch][1] * KIB,
                        kernels=kernels,
                    )


def table_row(record: dict[str, Any]) -> list[str]:
    """Formats a record: registers / KiB of shared memory / spilled bytes of each kernel."""
    cells = {
        one['kernel']: f'{one["registers"]} / {one["shared"] / KIB:.0f} / {one["spilled"]}' for one in record['kernels']
    }
    cells = cells or {'forward': f'needs {record["estimate"] // KIB} KiB of {record["limit"] // KIB}'}
    head = [record['arch'], record['dtype'], str(record['window']), str(record['head_dim'])]
    return head + [cells.get(name, '') for name in ('forward', 'backward', 'bias_backward')]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--arch', nargs='+', choices=list(ARCHS), default=list(ARCHS), help='default: all')
    parser.add_argument('--dtype', nargs='+', choices=list(DTYPES), default=['bfloat16'], help='default: bfloat16')
    parser.add_argument('--window', nargs='+', type=int, default=[7, 14], metavar='SIZE', help='default: 7 14')
    parser.add_argument('--head-dim', nargs='+', type=int, default=[32], metavar='CHANNELS', help='default: 32')
    parser.add_argument('--json', action='store_true', help='print one JSON object per line')
    args = parser.parse_args()
    if backend.triton_kernels.INTERPRETED:
        parser.error('TRITON_INTERPRET is set: nothing would be compiled; unset it')
    if args.json:
        for record in measure(args):
            print(json.dumps(record), flush=True)
        return
    rows = [['', 'dtype', 'window', 'channels', 'forward', 'backward', 'bias_backward']]
    print(format_table(rows + [table_row(record) for record in measure(args)]))
    print('registers / KiB of shared memory per program / spilled bytes per thread')


if __name__ == '__main__':
    main()
