"""CvT: transformers' layers with the released activation and stochastic depth; released names; bad arguments."""

import sys

import pytest
import torch
from mmengine.registry import MODELS
from transformers import CvtConfig, CvtForImageClassification

from mmfocal.errors import CheckpointError, ConfigError
from mmfocal.models.cvt import CvT, DropPath

NANO = dict(embed_dim=[8, 16, 32], num_heads=[1, 2, 4], depth=[1, 2, 3])
# What transformers' names are in the authors' files, part by part; the whole of their conversion.
RELEASED = (
    ('cvt.encoder.stages.', 'stage'),
    ('embedding.convolution_embeddings.projection', 'patch_embed.proj'),
    ('embedding.convolution_embeddings.normalization', 'patch_embed.norm'),
    ('.layers.', '.blocks.'),
    ('attention.attention.', 'attn.'),
    ('attention.output.dense', 'attn.proj'),
    ('.convolution_projection.convolution', '.conv'),
    ('.convolution_projection.normalization', '.bn'),
    ('convolution_projection_query', 'conv_proj_q'),
    ('convolution_projection_key', 'conv_proj_k'),
    ('convolution_projection_value', 'conv_proj_v'),
    ('projection_query', 'proj_q'),
    ('projection_key', 'proj_k'),
    ('projection_value', 'proj_v'),
    ('layernorm_before', 'norm1'),
    ('layernorm_after', 'norm2'),
    ('intermediate.dense', 'mlp.fc1'),
    ('output.dense', 'mlp.fc2'),
    ('layernorm.', 'norm.'),
    ('classifier.', 'head.'),
)


def randomized(model: torch.nn.Module) -> torch.nn.Module:
    """Gives running statistics and norms values of their own, which a mix-up of names would show."""
    torch.manual_seed(0)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5) if value.dim() < 2 else value.normal_(std=0.2)
    return model.eval()


@pytest.fixture(scope='module')
def theirs() -> CvtForImageClassification:
    return randomized(CvtForImageClassification(CvtConfig(num_labels=5, **NANO)))


@pytest.mark.parametrize('names', ['transformers', 'authors', 'ours'])
def test_classifies_as_transformers_does_from_each_kind_of_file(theirs, names, tmp_path):
    weights = theirs.state_dict()
    if names == 'authors':
        for part, released in RELEASED:
            weights = {name.replace(part, released): value for name, value in weights.items()}
        assert 'stage2.cls_token' in weights and 'stage0.blocks.0.attn.conv_proj_q.bn.running_mean' in weights
    elif names == 'ours':
        model = CvT(arch=NANO, activation='gelu')
        model.norm.load_state_dict(theirs.layernorm.state_dict())
        model.model.load_state_dict(theirs.cvt.state_dict())
        weights = {f'backbone.{name}': value for name, value in model.state_dict().items()}
    path = tmp_path / 'cvt.pth'
    torch.save(weights, path)
    model = CvT(arch=NANO, activation='gelu', init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    model.init_weights()
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(theirs.classifier(model.eval()(image)[0]), theirs(image).logits)


def test_activation_is_the_released_one():
    model = CvT(arch=NANO)
    x = torch.linspace(-3, 3, 50)
    activation = model.model.encoder.stages[0].layers[0].intermediate.activation
    torch.testing.assert_close(activation(x), x * (1.702 * x).sigmoid())


def test_stochastic_depth_drops_branches_alone():
    model = CvT(arch=NANO, drop_path_rate=0.2)
    layers = model.model.encoder.stages[2].layers
    rates = [[part.rate for part in layer.modules() if isinstance(part, DropPath)] for layer in layers]
    assert rates == [[], pytest.approx([0.1, 0.1]), pytest.approx([0.2, 0.2])]
    assert not [part for part in model.model.encoder.stages[:2].modules() if isinstance(part, DropPath)]
    layer = layers[2].train()
    for part in layer.modules():
        if isinstance(part, DropPath):
            part.rate = 1 - 1e-9
    x = torch.randn(2, 1 + 4 * 4, 32)
    assert torch.equal(layer(x, 4, 4), x)  # both branches dropped: only the residual path is left
    model.eval()
    assert torch.equal(layer(x, 4, 4), layer(x, 4, 4)) and not torch.equal(layer(x, 4, 4), x)


def test_maps_have_the_strides_of_the_stages():
    model = MODELS.build(dict(type='CvT', arch=NANO, out_type='featmap', out_indices=(0, 1, 2)))
    maps = model(torch.randn(1, 3, 64, 96))
    assert [tuple(one.shape) for one in maps] == [(1, 8, 16, 24), (1, 16, 8, 12), (1, 32, 4, 6)]
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(arch='cvt-14'), "CvT: arch must be one of 'cvt-13', 'cvt-21', got 'cvt-14'"),
        (dict(activation='relu'), "CvT: activation must be one of 'quick_gelu', 'gelu', got 'relu'"),
        (dict(out_type='map'), "CvT: out_type must be one of 'cls_token', 'featmap', got 'map'"),
        (dict(out_indices=(3,)), 'CvT: out_indices must list stages from 0 to 2 in increasing order, got (3,)'),
        (
            dict(arch=dict(depth=[1, 2])),
            "CvT: arch must be one of 'cvt-13', 'cvt-21' or dict(embed_dim=…, depth=…, num_heads=…), got "
            "{'depth': [1, 2]}",
        ),
        (
            dict(arch=dict(NANO, depth=[1, 2])),
            'CvT: arch.depth must have 3 positive entries, one per stage, got [1, 2]',
        ),
        (
            dict(arch=dict(NANO, num_heads=[3, 2, 4])),
            'CvT: arch.num_heads[0]=3 does not divide the 8 channels of stage 0',
        ),
    ],
)
def test_bad_arguments_are_one_sentence(arguments, message):
    with pytest.raises(ConfigError) as caught:
        CvT(**arguments)
    assert str(caught.value) == message


def test_without_transformers_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, 'transformers', None)
    with pytest.raises(ConfigError, match=r'CvT: transformers is not installed; pip install mmfocal\[cvt\]'):
        CvT(arch=NANO)


@pytest.mark.parametrize(
    'change, message',
    [
        (
            lambda weights: {'x': torch.zeros(1)},
            'holds no CvT: it has neither stage0.patch_embed nor cvt.encoder.stages',
        ),
        (
            lambda weights: weights | {'cvt.encoder.stages.2.cls_token': torch.zeros(1, 1, 5)},
            r'model.encoder.stages.2.cls_token is \(1, 1, 5\) in the file and \(1, 1, 32\) in the model',
        ),
        (
            lambda weights: {name: value for name, value in weights.items() if name != 'layernorm.bias'},
            'does not fit this CvT: it lacks norm.bias',
        ),
        (
            lambda weights: weights | {'cvt.encoder.stages.2.layers.3.x': torch.zeros(1)},
            'does not fit this CvT: the model has no model.encoder.stages.2.layers.3.x',
        ),
    ],
    ids=['other', 'shape', 'lacks', 'surplus'],
)
def test_files_of_other_models_are_refused(theirs, change, message, tmp_path):
    path = tmp_path / 'cvt.pth'
    torch.save(change(theirs.state_dict()), path)
    with pytest.raises(CheckpointError, match=message):
        CvT(arch=NANO, init_cfg=dict(type='Pretrained', checkpoint=str(path))).init_weights()
