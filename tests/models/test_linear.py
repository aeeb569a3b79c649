"""Linear layers by oneDNN: the same numbers as the layers, and the layers themselves where anybody watches them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmfocal.models import FocalTransformer
from mmfocal.models import linear as linear_module
from mmfocal.models.linear import linear, pack, product, uses_onednn, weight_gradient


@pytest.fixture
def products(monkeypatch):
    """Makes oneDNN the faster library, as on AMD's CPUs; returns the products so far."""
    found = []
    monkeypatch.setattr(linear_module, '_onednn_is_faster', lambda: True)
    monkeypatch.setattr(linear_module, 'TRAINING_TOKENS', 0)
    monkeypatch.setattr(linear_module, 'TRAINING_PRODUCTS', 0)
    monkeypatch.setattr(linear_module, 'product', lambda *args: found.append(args) or product(*args))
    return found


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('shape', [(1,), (7,), (2, 5, 6), (0,)])
def test_it_is_the_layer(products, shape, bias):
    torch.manual_seed(0)
    layer = nn.Linear(24, 40, bias=bias)
    x = torch.randn(*shape, 24, requires_grad=True)
    gradient = torch.randn(*shape, 40)
    inputs = (x, *layer.parameters())
    out, expected = linear(layer, x), layer(x)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(
        torch.autograd.grad(out, inputs, gradient), torch.autograd.grad(expected, inputs, gradient)
    )
    with torch.inference_mode():
        torch.testing.assert_close(linear(layer, x), expected.detach())
    assert products


def test_maps_with_any_strides(products):
    layer, x = nn.Linear(8, 4), torch.randn(2, 8, 6, 5)
    for one in (x.permute(0, 2, 3, 1), x.permute(0, 2, 3, 1)[:, 1:5, ::2], x[:1, :, :1, :1].expand(2, 8, 3, 3).mT.mT):
        if one.shape[-1] == 8:
            torch.testing.assert_close(linear(layer, one), layer(one))
    grad_out = torch.ones(1, 4).expand(9, 4)
    y = torch.randn(9, 8, requires_grad=True)
    torch.testing.assert_close(
        torch.autograd.grad(linear(layer, y), y, grad_out), torch.autograd.grad(layer(y), y, grad_out)
    )


def test_only_the_gradients_that_are_needed(products):
    layer = nn.Linear(8, 4)
    layer.weight.requires_grad_(False)
    linear(layer, torch.randn(3, 8)).sum().backward()
    assert layer.weight.grad is None
    torch.testing.assert_close(layer.bias.grad, torch.full((4,), 3.0))


def test_small_products_are_trained_by_the_layer(monkeypatch):
    found = []
    monkeypatch.setattr(linear_module, '_onednn_is_faster', lambda: True)
    monkeypatch.setattr(linear_module, 'product', lambda *args: found.append(args) or product(*args))
    for tokens, width, big in ((127, 512, False), (128, 256, False), (128, 512, True)):
        found.clear()
        layer, x = nn.Linear(width, width), torch.randn(tokens, width)
        linear(layer, x)
        assert bool(found) == big
        with torch.no_grad():
            linear(layer, x)
        assert len(found) == 1 + big


def test_it_is_differentiable_twice_and_in_batches(products):
    torch.manual_seed(0)
    layer = nn.Linear(4, 3)
    x = torch.randn(5, 4, requires_grad=True)

    def call(function):
        (grad,) = torch.autograd.grad(function(layer, x).pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(grad.pow(2).sum(), (x, layer.weight))

    torch.testing.assert_close(call(linear), call(lambda layer, x: layer(x)))
    out, batches = linear(layer, x), torch.randn(2, 5, 3)
    torch.testing.assert_close(
        torch.autograd.grad(out, layer.weight, batches, is_grads_batched=True),
        torch.autograd.grad(layer(x), layer.weight, batches, is_grads_batched=True),
    )


class Caller(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return linear(self.layer, x)


def test_observers_get_the_layer(products):
    layer, x = nn.Linear(8, 4), torch.randn(3, 8)
    with torch.autocast('cpu', torch.bfloat16):
        assert linear(layer, x).dtype == torch.bfloat16
    torch.jit.trace(Caller(layer), x, check_trace=False)
    torch.compile(lambda x: linear(layer, x), backend='eager', fullgraph=True)(x)
    torch.func.vmap(lambda x: linear(layer, x))(x)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        linear(layer, x)
    assert counter.get_total_flops() == 2 * 3 * 8 * 4
    seen = []
    handle = layer.register_forward_hook(lambda *_: seen.append(1))
    linear(layer, x)
    handle.remove()
    assert seen and not products
    linear(layer, x)
    assert len(products) == 1


def test_other_dtypes_and_a_switch(products):
    layer, x = nn.Linear(8, 4), torch.randn(3, 8)
    linear(layer.double(), x.double())
    linear(layer.bfloat16(), x.bfloat16())
    layer.float()
    with torch.backends.mkldnn.flags(enabled=False):
        assert not uses_onednn()
        linear(layer, x)
    assert not products


@pytest.mark.parametrize(
    'capability, cpu, is_faster',
    [('AVX512', 'AuthenticAMD', True), ('AVX2', 'AuthenticAMD', False), ('AVX512', 'GenuineIntel', False)],
)
def test_where_it_is_faster(monkeypatch, tmp_path, capability, cpu, is_faster):
    info = tmp_path / 'cpuinfo'
    info.write_text(f'vendor_id\t: {cpu}\n')
    monkeypatch.setattr(linear_module, 'Path', lambda path: info)
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, 'is_available', lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, 'is_available', lambda: True)
    assert linear_module._onednn_is_faster.__wrapped__() == is_faster


@pytest.mark.parametrize('onednn', [True, False])
def test_packed_weights_and_gelu(monkeypatch, onednn):
    monkeypatch.setattr(linear_module, '_onednn_is_faster', lambda: onednn)
    torch.manual_seed(0)
    x, weight, bias, grad = torch.randn(33, 24), torch.randn(40, 24), torch.randn(40), torch.randn(33, 40)
    expected = F.linear(x, weight, bias)
    packed = pack(weight, 32)
    assert (packed is weight) != onednn
    for rows in (33, 32, 1):
        torch.testing.assert_close(product(x[:rows], packed, bias), expected[:rows])
        torch.testing.assert_close(product(x[:rows], packed, bias, gelu=True), F.gelu(expected[:rows]))
    torch.testing.assert_close(product(grad, pack(weight.t(), 32)), grad @ weight)
    torch.testing.assert_close(weight_gradient(grad, x), grad.t() @ x)


def test_the_backbone_trains_the_same(monkeypatch):
    monkeypatch.setattr(linear_module, 'TRAINING_TOKENS', 0)
    monkeypatch.setattr(linear_module, 'TRAINING_PRODUCTS', 0)
    torch.manual_seed(0)
    arch = dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))
    model, x = FocalTransformer(arch=arch, drop_path_rate=0.0), torch.randn(2, 3, 70, 90)
    results = []
    for onednn in (False, True, True):
        monkeypatch.setattr(linear_module, '_onednn_is_faster', lambda onednn=onednn: onednn)
        model.zero_grad()
        outs = model(x)
        sum(out.square().mean() for out in outs).backward()
        results.append([*(out.detach() for out in outs), *(p.grad.clone() for p in model.parameters())])
    torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-5)
    assert all(torch.equal(*pair) for pair in zip(*results[1:]))
