"""The Triton backend against the definition in float64: compiled where there is a GPU, else through the interpreter.

Errors are in units of the largest value compared with. In float32 they come from sums of some hundred terms; in half
precision from the factors of products, rounded to it, and, in gradients at logits, from the rounded output.
"""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfocal.ops.focal_attention.backends import reference
from mmfocal.ops.focal_attention.backends import triton as backend
from mmfocal.ops.focal_attention.geometry import Layout

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 5e-2}


def inputs(layout, batch=1, rows=2, cols=2, heads=1, head_dim=16, dtype=torch.float32):
    """q, k, v and the pooled keys and values as views of packed maps, the bias, and the gradient at the output."""
    generator = torch.Generator().manual_seed(0)
    height, width = rows * layout.window_size, cols * layout.window_size

    def make(*shape):
        return torch.randn(*shape, generator=generator).to(DEVICE, dtype)

    maps = make(batch, height, width, 3, heads, head_dim).unbind(3)
    pooled = [
        tuple(make(batch, *layout.pooled_size(height, width, level), 2, heads, head_dim).unbind(3))
        for level in range(layout.pooled_levels)
    ]
    bias = make(heads, layout.tokens, layout.keys).float()
    return maps, pooled, bias, make(batch, height, width, heads, head_dim)


def triton(layout, maps, pooled, bias, grad):
    """Output and all gradients, in one flat list; the gradients are written into packed maps."""
    out, lse = backend.forward(*maps, pooled, bias, layout)
    assert out.is_contiguous() and out.dtype == maps[0].dtype and lse.dtype == torch.float32
    grads = torch.stack(maps, 3).fill_(float('nan')).unbind(3)
    dpooled = [torch.stack(pair, 3).fill_(float('nan')).unbind(3) for pair in pooled]
    dbias = backend.backward(grad, *maps, pooled, bias, out, lse, layout, bias is not None, *grads, dpooled)
    return [out, *grads, *(x for pair in dpooled for x in pair), *([] if bias is None else [dbias])]


def definition(layout, maps, pooled, bias, grad):
    flat = [*maps, *(x for pair in pooled for x in pair), *([] if bias is None else [bias])]
    flat = [x.detach().double().requires_grad_() for x in flat]
    pairs = list(zip(flat[3 : 3 + 2 * len(pooled) : 2], flat[4 : 4 + 2 * len(pooled) : 2]))
    out, _ = reference.forward(*flat[:3], pairs, None if bias is None else flat[-1], layout)
    return [out, *torch.autograd.grad(out, flat, grad.double())]


def check(layout, **kwargs):
    args = inputs(layout, **kwargs)
    close(triton(layout, *args), definition(layout, *args), TOLERANCE[args[0][0].dtype])


def close(actual, expected, tolerance):
    for i, (x, y) in enumerate(zip(actual, expected, strict=True)):
        error = (x.double() - y).abs().max() / y.abs().max().clamp(min=0.3)  # a single key's gradients are 0
        assert error < tolerance, f'tensor {i} is off by {error:.1e} of its largest value'


@pytest.mark.parametrize(
    'layout, kwargs',
    [
        (Layout(7, 3, 7, 1, 'wrap'), dict(cols=3)),
        (Layout(7, 3, 5, 1, 'mask', True), dict(batch=2, head_dim=32)),
        (Layout(7, 7, 3, 2, 'wrap', True), dict(heads=2)),
        (Layout(7, 0, 1, 1, 'wrap'), dict(heads=3, head_dim=64)),
        (Layout(4, 2, 3, 3, 'mask'), dict(batch=2, rows=1)),
        (Layout(4, 4, 3, 2, 'wrap'), dict(cols=1)),
        (Layout(3, 1, 3, 1, 'wrap'), dict(rows=1, cols=1)),
        (Layout(10, 2, 1, 0, 'wrap'), dict(rows=1)),
        (Layout(14, 5, 3, 1, 'mask'), dict(rows=1)),
    ],
    ids=str,
)
def test_definition(layout, kwargs):
    check(layout, **kwargs)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    'layout, head_dim',
    [
        (Layout(7, 3, 7, 1, 'wrap'), 32),
        (Layout(5, 2, 3, 2, 'mask', True), 16),
        (Layout(7, 1, 1, 1, 'mask'), 64),
        (Layout(14, 1, 1, 1), 32),
    ],
    ids=str,
)
def test_half_precision(layout, head_dim, dtype):
    check(layout, head_dim=head_dim, dtype=dtype, cols=1)


@st.composite
def cases(draw, largest=5, levels=3):
    window_size = draw(st.integers(1, largest))
    pooled_levels = draw(st.integers(0, min(levels, window_size.bit_length())))
    layout = Layout(
        window_size,
        draw(st.integers(0, window_size)),
        draw(st.sampled_from([1, 3, 5])),
        pooled_levels,
        draw(st.sampled_from(['wrap', 'mask'])),
        draw(st.booleans()),
    )
    sizes = {name: draw(st.integers(1, most)) for name, most in dict(batch=2, rows=3, cols=3, heads=2).items()}
    return layout, dict(sizes, head_dim=draw(st.sampled_from([16, 32])))


@settings(max_examples=8, derandomize=True, deadline=None, database=None)
@given(cases())
def test_any_layout(case):
    layout, kwargs = case
    check(layout, **kwargs)


@pytest.mark.slow
@settings(max_examples=40, derandomize=True, deadline=None, database=None)
@given(cases(largest=16, levels=4), st.sampled_from(list(TOLERANCE)))
def test_any_layout_and_dtype(case, dtype):
    layout, kwargs = case
    check(layout, **kwargs, dtype=dtype)


def test_as_on_amd(monkeypatch):
    monkeypatch.setattr(torch.version, 'hip', '6.4')
    check(Layout(4, 2, 3, 2, 'mask', True), heads=2, dtype=torch.float16)


def test_other_memory_formats():
    layout = Layout(4, 2, 3, 1, 'wrap')
    maps, pooled, bias, grad = inputs(layout, batch=2, heads=2)
    expected = definition(layout, maps, pooled, bias, grad)
    maps = [
        maps[0].transpose(3, 4).contiguous().transpose(3, 4),  # channels before heads
        torch.nn.functional.pad(maps[1], (0, 0, 0, 0, 1, 1))[:, :, 1:-1],  # cropped
        maps[2].permute(3, 1, 2, 0, 4).contiguous().permute(3, 1, 2, 0, 4),
    ]  # heads before the map
    bias = bias.transpose(1, 2).contiguous().transpose(1, 2)
    grad = grad.transpose(1, 3).contiguous().transpose(1, 3)
    close(triton(layout, maps, pooled, bias, grad), expected, TOLERANCE[torch.float32])


def test_without_bias():
    layout = Layout(4, 2, 3, 1, 'mask')
    maps, pooled, _, grad = inputs(layout)
    expected = definition(layout, maps, pooled, None, grad)
    close(triton(layout, maps, pooled, None, grad), expected, TOLERANCE[torch.float32])


def test_bias_gradient_only_if_wanted():
    layout = Layout(4, 1, 1, 0)
    maps, _, bias, grad = inputs(layout)
    out, lse = backend.forward(*maps, [], bias, layout)
    grads = [torch.empty_like(grad) for _ in range(3)]
    assert backend.backward(grad, *maps, [], bias, out, lse, layout, False, *grads, []) is None
    for dtype in (torch.float16, torch.float64):
        dbias = backend.backward(grad, *maps, [], bias.to(dtype), out, lse, layout, True, *grads, [])
        assert dbias.dtype == dtype and dbias.shape == bias.shape


def test_bias_may_forbid_keys():
    layout = Layout(4, 2, 3, 1, 'wrap')
    maps, pooled, bias, grad = inputs(layout, dtype=torch.float16)
    bias[:, :, ::3] = -float('inf')
    expected = definition(layout, maps, pooled, bias, grad)
    close(triton(layout, maps, pooled, bias, grad), expected, TOLERANCE[torch.float16])


def test_not_a_number_is_not_hidden():
    layout = Layout(4, 2, 3, 1, 'wrap')
    maps, pooled, bias, _ = inputs(layout)
    bias[0, 3, 5] = float('nan')
    out, _ = backend.forward(*maps, pooled, bias, layout)
    assert out.isnan().flatten(3).any(3).sum() == 4  # the fourth token of each of four windows


def test_same_bits_every_time(monkeypatch):
    """And whether images go through backward together or one by one."""
    layout = Layout(7, 3, 3, 2, 'wrap', True)
    args = inputs(layout, batch=2, dtype=torch.float16)
    torch.use_deterministic_algorithms(True)
    try:
        first, second = triton(layout, *args), triton(layout, *args)
        monkeypatch.setattr(backend, 'PARTIALS_BYTES', 1)
        third = triton(layout, *args)
    finally:
        torch.use_deterministic_algorithms(False)
    for x, y, z in zip(first, second, third, strict=True):
        assert torch.equal(x, y) and torch.equal(x, z)


def test_log_sum_exp():
    layout = Layout(4, 0, 1, 0)
    (q, k, v), _, bias, _ = inputs(layout, rows=1, cols=1)
    _, lse = backend.forward(q, k, v, [], bias, layout)
    logits = q.flatten(0, 3).double() @ k.flatten(0, 3).double().T / 4 + bias[0]
    close([lse.flatten()], [logits.logsumexp(1)], TOLERANCE[torch.float32])


@pytest.mark.parametrize(
    'change, phrase',
    [
        (dict(dtype=torch.float64), 'it needs float16, bfloat16 or float32, the maps are torch.float64'),
        (dict(head_dim=24), 'it needs a head_dim of 16, 32, 64, the maps have 24'),
        (dict(window_size=17), 'it needs a window_size of at most 16, got 17'),
        (dict(dropout_p=0.1), 'it has no dropout'),
        (dict(device='meta'), 'it needs a CUDA device, the maps are on meta'),
    ],
)
def test_unsupported(change, phrase, monkeypatch):
    def reason(dtype=torch.float16, head_dim=16, window_size=7, dropout_p=0.0, device=DEVICE):
        q = torch.zeros(1, window_size, window_size, 1, head_dim, dtype=dtype, device=device)
        return backend.unsupported(q, Layout(window_size), dropout_p)

    assert reason() is None
    monkeypatch.setattr(backend.triton_kernels, 'INTERPRETED', False)
    assert reason(**change) == phrase


COMPILE = """
import sys
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

target = GPUTarget('cuda', 90, 32)
if sys.argv[1] == 'amd':
    target, torch.version.hip = GPUTarget('hip', 'gfx942', 64), '6.4'


class NoGPU:

    def get_current_target(self):
        return target

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


class Compiled:

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        return lambda *args, **kwargs: self.compile(self.kernel.warmup(*args, grid=grid, **kwargs))

    def compile(self, kernel):
        print(self.kernel.__name__, kernel.metadata.shared, 'wgmma' in kernel.asm.get('ptx', ''))


driver.set_active(NoGPU())
from mmfocal.ops.focal_attention.backends import triton as backend
from mmfocal.ops.focal_attention.geometry import Layout

for name in ('pack_bias', 'forward', 'backward', 'sum_partials', 'bias_backward'):
    setattr(backend.triton_kernels, name, Compiled(getattr(backend.triton_kernels, name)))
for layout, head_dim, dtype in [(Layout(7, 3, 7, 1, 'mask', True), 32, torch.bfloat16),
                                (Layout(14, 3, 1, 0), 64, torch.float16), (Layout(2, 1, 1, 2), 16, torch.float32)]:
    height = 2 * layout.window_size
    q, k, v = torch.zeros(1, height, height, 3, 1, head_dim, dtype=dtype).unbind(3)
    pooled = [torch.zeros(1, *layout.pooled_size(height, height, level), 2, 1, head_dim, dtype=dtype).unbind(3)
              for level in range(layout.pooled_levels)]
    bias = torch.zeros(1, layout.tokens, layout.keys)
    out, lse = backend.forward(q, k, v, pooled, bias, layout)
    backend.backward(out, q, k, v, pooled, bias, out, lse, layout, True, q, k, v, pooled)
"""


@pytest.mark.slow
@pytest.mark.parametrize('maker, shared', [('nvidia', 227), ('amd', 64)])
def test_kernels_compile(maker, shared, tmp_path):
    """For H100 and MI300, without a GPU: what the interpreter takes, a compiler may refuse."""
    environment = dict(os.environ, TRITON_INTERPRET='0', TRITON_CACHE_DIR=str(tmp_path))
    done = subprocess.run([sys.executable, '-c', COMPILE, maker], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    compiled = [line.split() for line in done.stdout.splitlines()]
    assert all(int(used) <= shared * 1024 for _, used, _ in compiled)
    for kernel in ('forward', 'backward', 'bias_backward'):  # on Hopper's tensor cores
        assert (maker == 'nvidia') == ('True' in [wgmma for name, _, wgmma in compiled if name == kernel])
