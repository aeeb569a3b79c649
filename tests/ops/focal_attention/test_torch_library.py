"""Focal attention as operators of PyTorch's library: their rules, autograd, torch.compile, torch.export, both forms of maps."""

import importlib

import pytest
import torch

from mmfocal.ops import Layout, focal_attention, focal_attention_qkvpacked
from mmfocal.ops.focal_attention.torch_library import fused_attention

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'  # where there is no GPU, Triton's interpreter
OPTIONS = dict(window_size=4, expand_size=2, focal_window=3)


def packed(levels=1, dtype=torch.float64, batch=1, rows=2, cols=3, requires_grad=True):
    torch.manual_seed(0)
    heads, head_dim = 2, 16
    qkv = torch.randn(batch, rows * 4, cols * 4, 3, heads, head_dim, dtype=dtype)
    pooled = [torch.randn(batch, rows * 2**k, cols * 2**k, 2, heads, head_dim, dtype=dtype) for k in range(levels)]
    bias = torch.randn(heads, 16, Layout(4, 2, 3, levels).keys, dtype=dtype)
    return [x.to(DEVICE).requires_grad_(requires_grad) for x in (qkv, *pooled, bias)]


@pytest.mark.parametrize('levels', [0, 1, 2])
@pytest.mark.parametrize('form, backend', [('packed', 'gather'), ('apart', 'gather'), ('packed', 'triton')])
def test_opcheck(levels, form, backend):
    qkv, *pooled, bias = packed(levels, dtype=torch.float64 if backend == 'gather' else torch.float32)
    if form == 'packed':
        maps = [qkv], pooled
    else:
        maps = [x.detach().clone().requires_grad_() for x in qkv.unbind(3)], [x for y in pooled for x in y.unbind(3)]
    torch.library.opcheck(fused_attention, (*maps, bias, 4, 2, 3, 'wrap', False, backend))


@pytest.mark.parametrize('backend, dtype', [('gather', torch.float64), ('triton', torch.float32)])
def test_both_forms_agree_and_their_gradients(backend, dtype):
    qkv, pooled, bias = packed(dtype=dtype)
    gradient = torch.randn(qkv.shape[:3] + qkv.shape[4:], dtype=qkv.dtype, device=DEVICE)
    results = []
    for backend in (backend, 'reference'):
        results.append(focal_attention_qkvpacked(qkv, [pooled], bias, backend=backend, **OPTIONS))
        results.append(focal_attention(*qkv.unbind(3), [pooled.unbind(3)], bias, backend=backend, **OPTIONS))
    grads = [torch.autograd.grad(out, (qkv, pooled, bias), gradient) for out in results]
    for out, grad in zip(results[1:], grads[1:]):
        torch.testing.assert_close(out, results[0])
        torch.testing.assert_close(grad, grads[0])


def test_maps_that_lie_apart():
    """k and v of their own, v before k in one tensor, and transposed maps: no view of both at once fits them."""
    qkv, pooled, bias = packed(requires_grad=False)
    q, k, v = qkv.unbind(3)
    expected = focal_attention(q, k, v, [pooled.unbind(3)], bias, backend='reference', **OPTIONS)
    backwards = torch.stack([v, k])
    swapped = k.transpose(1, 2).contiguous().transpose(1, 2)
    for key, value in ((k.clone(), v.clone()), (backwards[1], backwards[0]), (swapped, v)):
        torch.testing.assert_close(
            focal_attention(q, key, value, [pooled.unbind(3)], bias, backend='gather', **OPTIONS), expected
        )


def test_without_a_bias():
    qkv, pooled, _ = packed()
    outs = [focal_attention_qkvpacked(qkv, [pooled], backend=backend, **OPTIONS) for backend in ('gather', 'reference')]
    grads = [torch.autograd.grad(out.sin().sum(), (qkv, pooled)) for out in outs]
    torch.testing.assert_close(outs[0], outs[1])
    torch.testing.assert_close(grads[0], grads[1])


def test_nothing_gathered_is_kept_for_backward():
    qkv, pooled, bias = packed()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        out = focal_attention_qkvpacked(qkv, [pooled], bias, backend='gather', **OPTIONS)
    inputs_and_output = {x.untyped_storage().data_ptr() for x in (qkv, pooled, bias, out)}
    assert kept and all(x.untyped_storage().data_ptr() in inputs_and_output or x.numel() == 0 for x in kept)


@pytest.mark.parametrize('dtype, tolerance', [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_half_precision_is_computed_in_float32(dtype, tolerance):
    inputs = packed(dtype=dtype)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    outs = [
        focal_attention_qkvpacked(qkv, [pooled], bias, backend=backend, **OPTIONS)
        for (qkv, pooled, bias), backend in ((inputs, 'gather'), (exact, 'reference'))
    ]
    assert outs[0].dtype == dtype
    torch.testing.assert_close(outs[0].double(), outs[1], atol=tolerance, rtol=tolerance)
    grads = [torch.autograd.grad(out.sum(), x) for out, x in zip(outs, (inputs, exact))]
    for actual, expected in zip(*grads):
        assert actual.dtype == dtype
        torch.testing.assert_close(actual.double(), expected, atol=5 * tolerance, rtol=5 * tolerance)


def test_autocast_changes_nothing_inside():
    qkv, pooled, bias = packed(dtype=torch.float32)
    expected = focal_attention_qkvpacked(qkv, [pooled], bias, **OPTIONS)
    grads = torch.autograd.grad(expected.sum(), (qkv, pooled, bias))
    with torch.autocast(DEVICE, torch.bfloat16):
        out = focal_attention_qkvpacked(qkv, [pooled], bias, **OPTIONS)
        again = torch.autograd.grad(out.sum(), (qkv, pooled, bias))
    assert torch.equal(out, expected) and all(map(torch.equal, grads, again))


@pytest.mark.parametrize('backend', ['gather', 'triton'])
def test_compile_and_export(backend):
    class Module(torch.nn.Module):
        def forward(self, qkv, pooled, bias):
            return focal_attention_qkvpacked(qkv * 2, [pooled], bias, backend=backend, **OPTIONS)

    inputs = packed(dtype=torch.float32)
    expected = Module()(*inputs)
    grads = torch.autograd.grad(expected.sum(), inputs)
    compiled = torch.compile(Module(), backend='aot_eager', fullgraph=True)(*inputs)
    torch.testing.assert_close(compiled, expected)
    torch.testing.assert_close(torch.autograd.grad(compiled.sum(), inputs), grads)
    exported = torch.export.export(Module(), tuple(inputs))
    assert any('mmfocal.focal_attention' in str(node.target) for node in exported.graph.nodes)
    torch.testing.assert_close(exported.module()(*inputs), expected)


@pytest.mark.parametrize(
    'maps, sentence',
    [
        ((torch.zeros(1, 8, 12, 2, 16), []), r'qkv must be \(B, H, W, 3, heads, head_dim\)'),
        (
            (torch.zeros(1, 8, 12, 3, 2, 16), [torch.zeros(1, 2, 3, 2, 16)]),
            r'pooled_kv\[0\] must be \(B, h, w, 2, heads, head_dim\)',
        ),
        (
            (torch.zeros(1, 8, 12, 3, 2, 16), [torch.zeros(1, 2, 2, 2, 2, 16)]),
            r'pooled_kv\[0\]: k must be \(1, 2, 3, 2, 16\)',
        ),
    ],
)
def test_bad_packed_maps(maps, sentence):
    with pytest.raises(ValueError, match=sentence):
        focal_attention_qkvpacked(*maps, **OPTIONS)


def test_a_backend_that_cannot_says_why():
    qkv, pooled, bias = packed(requires_grad=False)
    with pytest.raises(ValueError, match="backend='gather' cannot take this input: it does not drop attention weights"):
        focal_attention_qkvpacked(qkv, [pooled], bias, backend='gather', dropout_p=0.1, **OPTIONS)


def test_triton_that_is_not_installed(monkeypatch):
    functional = importlib.import_module('mmfocal.ops.focal_attention.functional')
    monkeypatch.setattr(functional, '_TRITON_IS_THERE', False)
    qkv, pooled, bias = packed(dtype=torch.float32, requires_grad=False)
    with pytest.raises(
        ValueError, match="backend='triton' cannot take this input: the package triton is not installed"
    ):
        focal_attention_qkvpacked(qkv, [pooled], bias, backend='triton', **OPTIONS)
