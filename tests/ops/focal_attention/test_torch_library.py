"""Focal attention as operators of PyTorch's library: opcheck, autograd, compile, export, packed and unpacked maps."""

import pytest
import torch

from mmfocal.ops import Layout, focal_attention, focal_attention_qkvpacked
from mmfocal.ops.focal_attention import backends
from mmfocal.ops.focal_attention.torch_library import fused_attention, pack_layout, unpack_layout

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'  # where there is no GPU, Triton's interpreter
LAYOUT = Layout(4, 2, 3, 1)


def packed(levels=1, dtype=torch.float64, batch=1, rows=2, cols=3, requires_grad=True):
    torch.manual_seed(0)
    heads, head_dim = 2, 16
    qkv = torch.randn(batch, rows * 4, cols * 4, 3, heads, head_dim, dtype=dtype)
    pooled = [torch.randn(batch, rows * 2**k, cols * 2**k, 2, heads, head_dim, dtype=dtype) for k in range(levels)]
    bias = torch.randn(heads, 16, Layout(4, 2, 3, levels).keys, dtype=dtype)
    return [x.to(DEVICE).requires_grad_(requires_grad) for x in (qkv, *pooled, bias)]


@pytest.mark.parametrize('layout', [Layout(), Layout(4, 0, 1, 3, 'mask', True)])
def test_a_packed_layout_is_unpacked(layout):
    assert unpack_layout(pack_layout(layout)) == layout


@pytest.mark.parametrize('levels', [0, 1, 2])
@pytest.mark.parametrize('form, backend', [('packed', 'gather'), ('unpacked', 'gather'), ('packed', 'triton')])
def test_opcheck(levels, form, backend):
    qkv, *pooled, bias = packed(levels, dtype=torch.float64 if backend == 'gather' else torch.float32)
    if form == 'packed':
        maps = [qkv], pooled
    else:
        maps = [x.detach().clone().requires_grad_() for x in qkv.unbind(3)], [x for y in pooled for x in y.unbind(3)]
    torch.library.opcheck(fused_attention, (*maps, bias, pack_layout(Layout(4, 2, 3, levels)), backend))


@pytest.mark.parametrize('backend, dtype', [('gather', torch.float64), ('triton', torch.float32)])
def test_both_forms_agree_and_their_gradients(backend, dtype):
    qkv, pooled, bias = packed(dtype=dtype)
    gradient = torch.randn(qkv.shape[:3] + qkv.shape[4:], dtype=qkv.dtype, device=DEVICE)
    results = []
    for name in (backend, 'reference'):
        results.append(focal_attention_qkvpacked(qkv, [pooled], bias, LAYOUT, backend=name))
        results.append(focal_attention(*qkv.unbind(3), [pooled.unbind(3)], bias, LAYOUT, backend=name))
    grads = [torch.autograd.grad(out, (qkv, pooled, bias), gradient) for out in results]
    for out, grad in zip(results[1:], grads[1:]):
        torch.testing.assert_close(out, results[0])
        torch.testing.assert_close(grad, grads[0])


def test_maps_without_a_view_of_keys_and_values():
    """k and v of their own, v before k in one tensor, and transposed maps: no view holds both."""
    qkv, pooled, bias = packed(requires_grad=False)
    q, k, v = qkv.unbind(3)
    expected = focal_attention(q, k, v, [pooled.unbind(3)], bias, LAYOUT, backend='reference')
    backwards = torch.stack([v, k])
    swapped = k.transpose(1, 2).contiguous().transpose(1, 2)
    for key, value in ((k.clone(), v.clone()), (backwards[1], backwards[0]), (swapped, v)):
        torch.testing.assert_close(
            focal_attention(q, key, value, [pooled.unbind(3)], bias, LAYOUT, backend='gather'), expected
        )


def test_without_a_bias():
    qkv, pooled, _ = packed()
    outs = [
        focal_attention_qkvpacked(qkv, [pooled], None, LAYOUT, backend=backend) for backend in ('gather', 'reference')
    ]
    grads = [torch.autograd.grad(out.sin().sum(), (qkv, pooled)) for out in outs]
    torch.testing.assert_close(outs[0], outs[1])
    torch.testing.assert_close(grads[0], grads[1])


def test_nothing_gathered_is_kept_for_backward():
    qkv, pooled, bias = packed()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        out = focal_attention_qkvpacked(qkv, [pooled], bias, LAYOUT, backend='gather')
    inputs_and_output = {x.untyped_storage().data_ptr() for x in (qkv, pooled, bias, out)}
    assert kept and all(x.untyped_storage().data_ptr() in inputs_and_output or x.numel() == 0 for x in kept)


@pytest.mark.parametrize('dtype, tolerance', [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_half_precision_is_computed_in_float32(dtype, tolerance):
    inputs = packed(dtype=dtype)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    outs = [
        focal_attention_qkvpacked(qkv, [pooled], bias, LAYOUT, backend=backend)
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
    expected = focal_attention_qkvpacked(qkv, [pooled], bias, LAYOUT)
    grads = torch.autograd.grad(expected.sum(), (qkv, pooled, bias))
    with torch.autocast(DEVICE, torch.bfloat16):
        out = focal_attention_qkvpacked(qkv, [pooled], bias, LAYOUT)
        again = torch.autograd.grad(out.sum(), (qkv, pooled, bias))
    assert torch.equal(out, expected) and all(map(torch.equal, grads, again))


@pytest.mark.parametrize('backend', ['gather', 'triton'])
def test_compile_and_export(backend):
    class Module(torch.nn.Module):
        def forward(self, qkv, pooled, bias):
            return focal_attention_qkvpacked(qkv * 2, [pooled], bias, LAYOUT, backend=backend)

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
        focal_attention_qkvpacked(*maps, None, LAYOUT)


def test_an_unsupported_input_names_the_reason():
    qkv, pooled, bias = packed(requires_grad=False)
    with pytest.raises(ValueError, match="backend='gather' does not support this input: it has no dropout"):
        focal_attention_qkvpacked(qkv, [pooled], bias, LAYOUT, backend='gather', dropout_p=0.1)


def test_triton_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(backends, '_TRITON_INSTALLED', False)
    qkv, pooled, bias = packed(dtype=torch.float32, requires_grad=False)
    with pytest.raises(
        ValueError, match="backend='triton' does not support this input: the package triton is not installed"
    ):
        focal_attention_qkvpacked(qkv, [pooled], bias, LAYOUT, backend='triton')
