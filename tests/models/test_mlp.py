"""The MLP and the block some tokens at a time: the same numbers as all at once."""

import pytest
import torch
import torch.nn.functional as F

from mmfocal.models import FocalTransformer, mlp
from mmfocal.models.mlp import Mlp


def plain(module, x):
    return module.fc2(F.gelu(module.fc1(x)))


@pytest.mark.parametrize('hidden_values', [1, 7 * 12, 10**6])
def test_in_steps(monkeypatch, hidden_values):
    monkeypatch.setattr(mlp, 'HIDDEN_VALUES', hidden_values)
    torch.manual_seed(0)
    module = Mlp(3, 12, 0.0).double()
    x = torch.randn(2, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn_like(x)
    out, expected = module(x), plain(module, x)
    torch.testing.assert_close(out, expected)
    inputs = (x, *module.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(out, inputs, gradient), torch.autograd.grad(expected, inputs, gradient)
    )


def test_it_keeps_the_hidden_channels_once():
    module = Mlp(8, 32, 0.0)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape) or x, lambda x: x):
        module(torch.randn(64, 8))
    assert kept.count(torch.Size([64, 32])) == 1


def test_all_at_once_where_steps_do_not_serve(monkeypatch):
    """With dropout, autocast or a tracer."""

    def never(*args):
        raise AssertionError('in steps')

    monkeypatch.setattr(mlp._MlpInSteps, 'apply', never)
    x = torch.randn(4, 8)
    Mlp(8, 32, 0.1)(x)
    module = Mlp(8, 32, 0.0)
    with torch.autocast('cpu', torch.bfloat16):
        assert module(x).dtype == torch.bfloat16
    torch.jit.trace(module, x)
    with pytest.raises(AssertionError, match='in steps'):
        module(x)


@pytest.mark.parametrize('hidden_values', [1, 10**4, 10**9])
def test_inference_some_rows_at_a_time(monkeypatch, hidden_values):
    monkeypatch.setattr(mlp, 'HIDDEN_VALUES', hidden_values)
    torch.manual_seed(0)
    model = (
        FocalTransformer(arch=dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8)), layer_scale=0.5)
        .double()
        .eval()
    )
    x = torch.randn(2, 3, 70, 90, dtype=torch.float64)
    expected = model(x)
    with torch.inference_mode():
        outs = model(x)
    torch.testing.assert_close([out.clone() for out in outs], [out.detach() for out in expected])
