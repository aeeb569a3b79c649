"""The MLP in chunks of tokens: the same numbers as the layers, and the layers themselves where anybody watches them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

from mmfocal.models import FocalTransformer, mlp
from mmfocal.models.mlp import Mlp


def plain(module, x):
    return module.fc2(F.gelu(module.fc1(x)))


@pytest.fixture
def chunks(monkeypatch):
    """Makes every MLP that may run in chunks do so; returns the number of their calls so far."""
    calls = []
    monkeypatch.setattr(mlp, 'CHUNK_VALUES', 32)
    run = mlp._mlp_in_chunks
    monkeypatch.setattr(mlp, '_mlp_in_chunks', lambda *args: calls.append(args) or run(*args))
    return calls


@pytest.mark.parametrize('chunk_values', [1, 7 * 12, 200])
def test_chunks_compute_the_same(monkeypatch, chunk_values):
    monkeypatch.setattr(mlp, 'CHUNK_VALUES', chunk_values)
    torch.manual_seed(0)
    module = Mlp(3, 12, 0.0).double()
    x = torch.randn(2, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn_like(x)
    assert module._runs_in_chunks(x)
    out, expected = module(x), plain(module, x)
    torch.testing.assert_close(out, expected)
    inputs = (x, *module.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(out, inputs, gradient), torch.autograd.grad(expected, inputs, gradient)
    )
    with torch.inference_mode():
        torch.testing.assert_close(module(x), expected.detach())


def test_chunks_are_differentiable_twice_and_in_batches(chunks):
    torch.manual_seed(0)
    module = Mlp(3, 5, 0.0).double()
    x = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, x, check_batched_grad=True)
    parameters = tuple(module.parameters())

    def call(x, *parameters):
        return mlp._mlp_in_chunks(x, *parameters)

    assert torch.autograd.gradgradcheck(call, (x, *parameters))
    assert chunks


def test_chunks_save_the_hidden_channels_once(chunks):
    module = Mlp(8, 32, 0.0)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape) or x, lambda x: x):
        module(torch.randn(64, 8))
    assert chunks and kept.count(torch.Size([1, 32])) == 64 and torch.Size([64, 32]) not in kept


def test_a_map_that_fits_the_cache_is_not_split(monkeypatch):
    monkeypatch.setattr(mlp, '_mlp_in_chunks', None)
    Mlp(8, 32, 0.0)(torch.randn(mlp.CHUNK_VALUES // 32, 8))


class LoRA(nn.Module):
    """A linear layer with a low-rank adapter."""

    def __init__(self, base):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def count_calls(module, tokens):
    """Hooks see the whole map in one call."""
    module.register_forward_hook(lambda _, args, out: tokens.append(args[0].shape[:-1].numel()))


CHANGES = {
    'hook': lambda m: count_calls(m.fc2, []),
    'pre-hook': lambda m: m.act.register_forward_pre_hook(lambda *_: None),
    'backward hook': lambda m: m.fc1.register_full_backward_hook(lambda *_: None),
    'adapter': lambda m: setattr(m, 'fc1', LoRA(m.fc1)),
    'pruning': lambda m: prune.l1_unstructured(m.fc2, 'weight', 0.5),
    'weight norm': lambda m: nn.utils.parametrizations.weight_norm(m.fc1),
    'old weight norm': lambda m: nn.utils.weight_norm(m.fc1),
    'spectral norm': lambda m: nn.utils.parametrizations.spectral_norm(m.fc2),
    'activation': lambda m: setattr(m, 'act', nn.ReLU()),
    'approximate GELU': lambda m: setattr(m, 'act', nn.GELU('tanh')),
    'no bias': lambda m: m.fc2.register_parameter('bias', None),
    'own forward': lambda m: setattr(m.fc1, 'forward', lambda x: F.linear(x, m.fc1.weight) * 2),
    'dropout': lambda m: setattr(m.drop, 'p', 0.5),
    'another dropout': lambda m: setattr(m, 'drop', nn.AlphaDropout(0.0)),
}


@pytest.mark.filterwarnings('ignore:`torch.nn.utils.weight_norm` is deprecated')
@pytest.mark.parametrize('change', CHANGES)
def test_a_changed_layer_is_called(change, chunks):
    torch.manual_seed(0)
    module, x = Mlp(8, 32, 0.0), torch.randn(16, 8)
    module(x)
    assert len(chunks) == 1
    CHANGES[change](module)
    module(x)
    assert len(chunks) == 1


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_is_not_split(dtype, chunks):
    Mlp(8, 32, 0.0).to(dtype)(torch.randn(16, 8, dtype=dtype))
    assert not chunks


def test_an_observer_outside_sees_the_layers(chunks):
    """Autocast, tracers, global hooks, function transforms, and modes that intercept operators."""
    module, x = Mlp(8, 32, 0.0), torch.randn(16, 8)
    with torch.autocast('cpu', torch.bfloat16):
        assert module(x).dtype == torch.bfloat16
    torch.jit.trace(module, x, check_trace=False)  # the check calls the module itself
    torch.compile(module, backend='eager', fullgraph=True)(x)
    torch.func.vmap(torch.func.grad(lambda x: module(x).sum()))(x[:, None])
    torch.func.jvp(module, (x,), (x,))
    with torch.autograd.forward_ad.dual_level():
        module(torch.autograd.forward_ad.make_dual(x, x))
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        module(x)
    assert counter.get_total_flops() == 2 * 2 * 16 * 8 * 32
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        module(x)
    finally:
        handle.remove()
    assert not chunks
    module(x)
    assert len(chunks) == 1


def test_weights_of_another_dtype_raise_the_layers_error(chunks):
    with pytest.raises(RuntimeError, match='dtype'):
        Mlp(8, 32, 0.0).double()(torch.randn(16, 8))


@pytest.mark.parametrize('chunk_values', [1, 10**4, 10**9])
def test_the_backbone_computes_the_same_in_training_and_inference(monkeypatch, chunk_values):
    monkeypatch.setattr(mlp, 'CHUNK_VALUES', chunk_values)
    torch.manual_seed(0)
    arch = dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))
    model = FocalTransformer(arch=arch, layer_scale=0.5).double().eval()
    x = torch.randn(2, 3, 70, 90, dtype=torch.float64)
    expected = model(x)
    with torch.inference_mode():
        outs = model(x)
    torch.testing.assert_close([out.clone() for out in outs], [out.detach() for out in expected])
