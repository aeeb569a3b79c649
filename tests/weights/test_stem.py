"""Weights of RGB backbones in backbones for other channels."""

import re

import pytest
import torch

from mmfocal.errors import CheckpointError
from mmfocal.models import FocalTransformer
from mmfocal.models.vision_longformer import VisionLongformer
from mmfocal.weights import backbone as loading
from mmfocal.weights.writing import describe_architecture

ARCH = dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2))


def build(in_channels, path=None, **options):
    init_cfg = path and dict(type='Pretrained', checkpoint=str(path))
    torch.manual_seed(0)
    backbone = FocalTransformer(arch=ARCH, in_channels=in_channels, init_cfg=init_cfg, **options)
    backbone.init_weights()
    return backbone.eval()


@pytest.mark.parametrize('options', [dict(conv_embed=False), dict(conv_embed=True), dict(stem_blocks=1)], ids=str)
def test_four_channels_keep_the_function_of_three(tmp_path, monkeypatch, options):
    rgb = build(3, **options)
    torch.save(rgb.state_dict(), tmp_path / 'rgb.pth')
    said = []
    monkeypatch.setattr(loading, 'print_log', lambda message, logger: said.append(message.strip()))
    more = build(4, tmp_path / 'rgb.pth', **options)
    assert 'stem: weights of 3 channels expanded to 4: the first 3 as in the file, the others 0' in said
    image = torch.randn(1, 4, 64, 64)
    for fourth in (0.0, 100.0):
        image[:, 3] = fourth * torch.randn(64, 64)
        for one, other in zip(more(image), rgb(image[:, :3])):
            torch.testing.assert_close(one, other)
    more(image)[0].square().sum().backward()
    assert more.patch_embed.proj.weight.grad[:, 3].abs().max() > 0


def test_one_channel_is_grey(tmp_path):
    rgb = build(3)
    torch.save(rgb.state_dict(), tmp_path / 'rgb.pth')
    grey, image = build(1, tmp_path / 'rgb.pth'), torch.randn(1, 1, 64, 64)
    for one, other in zip(grey(image), rgb(image.expand(-1, 3, -1, -1))):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('file, model', [(3, 2), (4, 3), (4, 5), (1, 3)])
def test_other_numbers_are_refused(tmp_path, file, model):
    torch.save(build(file).state_dict(), tmp_path / 'a.pth')
    sentence = f'patch_embed.proj.weight is (8, {file}, 4, 4) in the file and (8, {model}, 4, 4) in the model'
    with pytest.raises(CheckpointError, match=re.escape(sentence)):
        build(model, tmp_path / 'a.pth')


def test_vision_longformer(tmp_path):
    rgb = VisionLongformer(in_channels=3, drop_path_rate=0.0).eval()
    torch.save(rgb.state_dict(), tmp_path / 'rgb.pth')
    more = VisionLongformer(
        in_channels=4, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'rgb.pth'))
    ).eval()
    more.init_weights()
    name = 'stages.0.embed.proj.weight'
    weight = more.state_dict()[name]
    assert torch.equal(weight[:, :3], rgb.state_dict()[name]) and not weight[:, 3:].any()


@pytest.mark.parametrize(
    'file, model, advice',
    [
        (None, 1, 'set stem_blocks=None'),
        (1, None, 'set stem_blocks as for the file'),
        (0, 1, 'set a lower stem_blocks'),
        (1, 0, 'set a higher stem_blocks'),
    ],
)
def test_another_stem(tmp_path, file, model, advice):
    torch.save(build(3, stem_blocks=file).state_dict(), tmp_path / 'other.pth')
    with pytest.raises(CheckpointError, match=f'does not fit this FocalTransformer: .*; {advice}') as info:
        build(3, tmp_path / 'other.pth', stem_blocks=model)
    assert '\n' not in str(info.value)


def test_the_description_names_the_stem():
    description = describe_architecture(build(3, stem_blocks=2, conv_embed=True).state_dict())
    assert description.endswith('conv_embed=True, stem_blocks=2')
    assert 'conv_embed=False, stem_blocks=0' in describe_architecture(build(3, stem_blocks=0).state_dict())
