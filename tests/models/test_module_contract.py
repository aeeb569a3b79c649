"""The backbone keeps what `nn.Module` promises: hooks, adapters, pruning and parametrisations work on every layer.

Each case compares with the same model whose layers all have a no-op hook, which is the plain path everywhere.
"""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from mmfocal.models import FocalTransformer, mlp

ARCH = dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 2))
IMAGE = torch.linspace(-2, 2, 3 * 60 * 70, dtype=torch.float64).sin().view(1, 3, 60, 70)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(mlp, 'CHUNK_VALUES', 256)


def make_model(**options):
    torch.manual_seed(0)
    options = {'drop_path_rate': 0.0, 'layer_scale': 0.5, 'focal_levels': (3, 2, 2, 1), **options}
    model = FocalTransformer(arch=ARCH, **options).double()
    for parameter in model.parameters():  # no zeros, no equal values
        nn.init.normal_(parameter, std=0.2)
    return model


def hooked(model):
    """Registers a hook on every layer, after which all are called one by one."""
    for module in model.modules():
        module.register_forward_hook(lambda *_: None)
    return model


def plain(model):
    return hooked(copy.deepcopy(model))


def loss(outs):
    return sum(out.sin().sum() for out in outs)


def assert_same(model, expected):
    """In training and in inference."""
    for actual_out, expected_out in zip(model(IMAGE), expected(IMAGE), strict=True):
        torch.testing.assert_close(actual_out, expected_out)
    with torch.no_grad():
        for actual_out, expected_out in zip(model(IMAGE), expected(IMAGE), strict=True):
            torch.testing.assert_close(actual_out, expected_out)
    for each in (model, expected):
        each.zero_grad()
        loss(each(IMAGE)).backward()
    for (name, parameter), other in zip(model.named_parameters(), expected.parameters(), strict=True):
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            torch.testing.assert_close(parameter.grad, other.grad, msg=lambda text, name=name: f'{name}: {text}')


class LoRA(nn.Module):
    """A layer with a low-rank adapter on its output, whose own weights are frozen."""

    def __init__(self, base, dim):
        super().__init__()
        self.base = base.requires_grad_(False)
        out = base.out_features if isinstance(base, nn.Linear) else dim
        self.down, self.up = nn.Linear(dim, 2, bias=False), nn.Linear(2, out, bias=False)
        self.double()

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


class Doubled(nn.Module):
    """Any module, with its output doubled."""

    def __init__(self, base):
        super().__init__()
        self.base = base

    def forward(self, *args, **kwargs):
        out = self.base(*args, **kwargs)
        return tuple(x if x is None else 2 * x for x in out) if isinstance(out, tuple) else 2 * out


LISTS = nn.ModuleList, nn.ParameterList
LAYERS = [name for name, module in make_model().named_modules() if name and not isinstance(module, LISTS)]
LINEAR = [name for name in LAYERS if isinstance(make_model().get_submodule(name), nn.Linear)]


def test_chunks_are_compared_with_layers(monkeypatch):
    calls = []
    run = mlp._mlp_in_chunks
    monkeypatch.setattr(mlp, '_mlp_in_chunks', lambda *args: calls.append(args) or run(*args))
    model = make_model()
    assert_same(model, plain(model))
    assert len(calls) == 3 * len(model.stages)  # of `model` alone


@pytest.mark.parametrize('name', LAYERS)
def test_a_hook_sees_whole_maps_as_often_in_training_as_in_inference(name):
    model, calls = make_model(), []
    module = model.get_submodule(name)
    module.register_forward_hook(lambda _, args, out: calls.append((args[0].shape, type(out))))
    module.register_forward_pre_hook(lambda *_: None)
    model(IMAGE)
    seen = list(calls)
    with torch.no_grad():
        model(IMAGE)
    assert seen and calls == 2 * seen
    expected, model = calls[: len(seen)], plain(model)
    model(IMAGE)
    assert calls[2 * len(seen) :] == expected


@pytest.mark.parametrize('name', LAYERS)
def test_what_a_hook_returns_counts(name):
    model = make_model()

    def change(_, args, out):
        return tuple(x if x is None else x * 2 for x in out) if isinstance(out, tuple) else out * 2

    model.get_submodule(name).register_forward_hook(change)
    assert_same(model, plain(model))


@pytest.mark.parametrize('name', LAYERS)
def test_a_module_in_a_layers_place_is_called(name):
    model, expected = make_model(), make_model()
    before = loss(expected(IMAGE))
    model.set_submodule(name, Doubled(model.get_submodule(name)))
    expected.set_submodule(name, Doubled(expected.get_submodule(name)))
    assert_same(model, plain(expected))
    dropout = isinstance(expected.get_submodule(name).base, nn.Dropout) or 'pre_norm' in name
    assert dropout or loss(model(IMAGE)) != before


@pytest.mark.parametrize('name', LINEAR)
def test_an_adapter_learns(name):
    model = make_model()
    model.set_submodule(name, LoRA(model.get_submodule(name), model.get_submodule(name).in_features))
    assert_same(model, plain(model))
    adapter = model.get_submodule(name)
    assert adapter.up.weight.grad.any() and adapter.down.weight.grad.any() and adapter.base.weight.grad is None


CHANGES = {
    'pruned': lambda module: prune.l1_unstructured(module, 'weight', 0.5),
    'pruned for good': lambda module: prune.remove(prune.l1_unstructured(module, 'weight', 0.5), 'weight'),
    'weight norm': nn.utils.parametrizations.weight_norm,
    'spectral norm': nn.utils.parametrizations.spectral_norm,
    'old weight norm': nn.utils.weight_norm,
    'old spectral norm': nn.utils.spectral_norm,
}


@pytest.mark.filterwarnings('ignore:`torch.nn.utils.weight_norm` is deprecated')
@pytest.mark.parametrize('change', CHANGES)
@pytest.mark.parametrize('name', LINEAR[:4])
def test_a_weight_that_is_computed(name, change):
    model, expected = make_model(), make_model()
    before = loss(model(IMAGE)).item()
    for each in (model, expected):
        torch.manual_seed(0)
        CHANGES[change](each.get_submodule(name))
        each.eval()  # spectral norm changes in training
    assert_same(model, hooked(expected))
    assert ('weight norm' in change) == (loss(model(IMAGE)).item() == pytest.approx(before))


def test_dynamic_quantisation_computes_with_its_own_layers():
    model = make_model().float().eval()
    image = IMAGE.float()
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    with torch.no_grad():
        for out, expected in zip(quantised(image), model(image)):
            error = (out - expected).abs().max() / expected.abs().max()
            assert 0 < error < 0.1


@pytest.mark.parametrize('options', [{}, dict(use_shift=True, border='mask')])
def test_the_reference_backend_is_differentiable_twice(options):
    model = make_model(attention_backend='reference', out_indices=(0, 1), **options)
    image = IMAGE[..., :20, :24].clone().requires_grad_()
    block = model.stages[0].blocks[0]
    weight, *weights = block.mlp.fc1.weight, block.attn.qkv.weight

    def penalty(model):
        gradients = torch.autograd.grad(loss(model(image)), (image, weight, *weights), create_graph=True)
        return sum(gradient.square().sum() for gradient in gradients)

    actual = torch.autograd.grad(penalty(model), weight)[0]
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step, difference = 1e-5, 0.0
    for sign in (1, -1):
        weight.data += sign * step * direction
        difference += sign * penalty(model).item()
        weight.data -= sign * step * direction
    # relative to a central difference, whose error is about step² and rounding / step
    assert (actual * direction).sum().item() == pytest.approx(difference / (2 * step), rel=1e-5)


def test_function_transforms():
    model = make_model(attention_backend='reference', out_indices=(0, 1))
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    images = torch.cat([IMAGE[..., :20, :24], IMAGE[..., -20:, -24:]])

    def objective(parameters, image):
        return loss(torch.func.functional_call(model, parameters, image[None]))

    per_sample = torch.func.vmap(torch.func.grad(objective), (None, 0))(parameters, images)
    for i, image in enumerate(images):
        model.zero_grad()
        loss(model(image[None])).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                torch.testing.assert_close(per_sample[name][i], parameter.grad)
    tangent = {name: torch.ones_like(parameter) for name, parameter in parameters.items()}
    _, derivative = torch.func.jvp(lambda parameters: objective(parameters, images[1]), (parameters,), (tangent,))
    expected = sum(gradient[1].sum() for gradient in per_sample.values())
    torch.testing.assert_close(derivative, expected)
