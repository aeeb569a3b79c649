"""The Triton backend against the definition in float64: compiled where there is a GPU, else through the interpreter.

Errors are in units of the largest value compared with. In float32 they come from sums of some hundred terms; in half
precision from the factors of products, rounded to it, and, in gradients at logits, from the rounded output.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfocal.ops.focal_attention import backends
from mmfocal.ops.focal_attention.backends import reference
from mmfocal.ops.focal_attention.backends import triton as backend
from mmfocal.ops.focal_attention.geometry import Layout

ROOT = Path(__file__).parents[3]
WITH_PRODUCTS = ('forward', 'backward', 'bias_backward')
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


GPUS = {  # compute capability; shared memory per program, in KiB
    'A100': (8, 0, 163),
    'RTX 3090': (8, 6, 99),
    'RTX 4090': (8, 9, 99),
    'H100': (9, 0, 227),
    'B200': (10, 0, 227),
    'RTX 5090': (12, 0, 99),
    'MI300': (9, 4, 64),
    'RX 7900': (11, 0, 64),
}


@pytest.fixture
def fake_gpu(monkeypatch):
    """Makes a GPU of a name the one that a stand-in for the queries is on; returns the stand-in's maker."""
    monkeypatch.setattr(backend.triton_kernels, 'INTERPRETED', False)
    monkeypatch.setattr(backends, '_reported', set())

    def make(name, window_size, head_dim, dtype):
        *capability, shared = GPUS[name]
        utils = SimpleNamespace(get_device_properties=lambda index: {'max_shared_mem': shared * 1024})
        monkeypatch.setattr(backend, 'driver', SimpleNamespace(active=SimpleNamespace(utils=utils)))
        monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: tuple(capability))
        monkeypatch.setattr(torch.version, 'hip', '6.4' if name.startswith(('MI', 'RX')) else None)
        shape = torch.Size((1, window_size, window_size, 1, head_dim))
        return SimpleNamespace(is_cuda=True, device=torch.device('cuda', 0), dtype=dtype, shape=shape)

    return make


@pytest.mark.parametrize('name', list(GPUS))
def test_what_fits_a_gpu(fake_gpu, name):
    """All windows and channels, in half precision; in float32 all but the largest where there are 99 KiB."""
    for window_size in range(1, 17):
        for head_dim in backend.HEAD_DIMS:
            for dtype in backend.DTYPES:
                q = fake_gpu(name, window_size, head_dim, dtype)
                too_large = window_size > 11 and head_dim == 64 and dtype == torch.float32 and GPUS[name][2] == 99
                reason = backend.unsupported(q, Layout(window_size, 0), 0.0)
                assert reason == ('it needs 152 KiB of shared memory per block, this GPU has 99' if too_large else None)


def test_auto_takes_gather_where_the_kernels_do_not_fit(fake_gpu):
    q, layout = fake_gpu('RTX 3090', 14, 64, torch.float32), Layout(14)
    sentence = (
        "focal_attention: using 'gather', as 'triton' does not support this input: "
        'it needs 152 KiB of shared memory per block, this GPU has 99'
    )
    with pytest.warns(UserWarning) as warned:
        assert [backends.choose('auto', q, layout, 0.0) for _ in range(3)] == ['gather'] * 3
    assert [str(one.message) for one in warned] == [sentence]
    with pytest.raises(ValueError, match='this GPU has 99; use .auto.$'):
        backends.choose('triton', q, layout, 0.0)
    assert backends.choose('auto', fake_gpu('A100', 14, 64, torch.float32), layout, 0.0) == 'triton'
    assert backends.choose('auto', fake_gpu('RTX 3090', 14, 64, torch.float16), layout, 0.0) == 'triton'
    with pytest.warns(UserWarning, match="using 'reference', as 'triton' does not .*: it has no dropout"):
        assert backends.choose('auto', q, Layout(7), 0.1) == 'reference'


def test_an_old_gpu(fake_gpu, monkeypatch):
    monkeypatch.setitem(GPUS, 'V100', (7, 0, 96))
    q = fake_gpu('V100', 7, 32, torch.float16)
    assert backend.unsupported(q, Layout(), 0.0) == 'it needs a GPU of compute capability 8.0 or more'


def test_the_choice_can_be_compiled(fake_gpu):
    """Without a break in the graph, the sentence included."""
    q = fake_gpu('RTX 3090', 14, 64, torch.float32)

    def run(x):
        return x + len(backends.choose('auto', q, Layout(14), 0.0))

    with pytest.warns(UserWarning, match="using 'gather'"):
        assert torch.compile(run, backend='eager', fullgraph=True)(torch.zeros(1)) == len('gather')


def compiled_kernels(tmp_path, *args):
    """Runs dev/kernel_resources.py, which needs no GPU."""
    environment = dict(os.environ, TRITON_INTERPRET='0', TRITON_CACHE_DIR=str(tmp_path))
    command = [sys.executable, 'dev/kernel_resources.py', *args]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    'arch, products, dtypes',
    [
        ('sm_80', 'mma.sync', ['bfloat16', 'float32']),
        ('sm_86', 'mma.sync', ['bfloat16', 'float32', 'tf32']),
        ('sm_89', 'mma.sync', ['bfloat16']),
        ('sm_90', 'wgmma', ['bfloat16', 'tf32']),
        ('sm_100', 'tcgen05.mma', ['bfloat16']),
        ('sm_120', 'mma.sync', ['bfloat16']),
        ('gfx942', 'v_mfma', ['bfloat16', 'float32']),
        ('gfx1100', 'v_wmma', ['bfloat16']),
    ],
)
def test_kernels_compile_and_fit(arch, products, dtypes, tmp_path):
    """What the interpreter takes, a compiler may refuse; and shared memory is not more than the choice counts with."""
    lines = []
    for dtype in dtypes:
        sizes = ('--window', '3', '7', '10', '14', '--head-dim', '16', '32', '64')
        if dtype != 'bfloat16':  # its products take long to compile
            sizes = ('--window', '10', '14', '--head-dim', '64')
        lines += compiled_kernels(tmp_path, '--json', '--arch', arch, '--dtype', dtype, *sizes).splitlines()
    for record in map(json.loads, lines):
        too_large = record['limit'] == 99 * 1024 and record['dtype'] != 'bfloat16' and record['window'] == 14
        assert (record['kernels'] == []) == too_large == (record['estimate'] > record['limit']), record
        for kernel in record['kernels']:
            assert kernel['shared'] <= min(record['estimate'], record['limit']), (record, kernel)
            assert kernel['tensor_memory'] <= 512, (record, kernel)
            if record['dtype'] == 'bfloat16' and record['window'] == 7 and kernel['kernel'] in WITH_PRODUCTS:
                assert kernel['products'] == products, (record, kernel)


@pytest.mark.slow
def test_table_of_kernel_resources(tmp_path):
    args = ('--arch', 'sm_86', '--dtype', 'float32', '--window', '3', '14', '--head-dim', '64')
    head, small, large, units = compiled_kernels(tmp_path, *args).splitlines()
    assert head.split() == ['dtype', 'window', 'channels', 'forward', 'backward', 'bias_backward']
    assert re.fullmatch(r'sm_86 +float32 +3 +64( +\d+ / \d+ / \d+){3}', small)
    assert re.fullmatch(r'sm_86 +float32 +14 +64 +needs 152 KiB of 99', large)
    assert units.startswith('registers / KiB of shared memory')
