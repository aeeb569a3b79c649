"""The weights that the package holds."""

from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner.checkpoint import CheckpointLoader

import mmfocal.registration  # noqa: F401  registers what configs name
from mmfocal.cli.demo import CONFIG, WEIGHTS
from mmfocal.engine import read_config
from mmfocal.errors import CheckpointError
from mmfocal.weights import load_checkpoint, loading


def test_weights_fill_the_backbone_of_the_demo():
    backbone = read_config(CONFIG).model.backbone.to_dict() | dict(init_cfg=dict(type='Pretrained', checkpoint=WEIGHTS))
    model = MODELS.build(backbone)
    model.init_weights()
    weights = load_checkpoint(WEIGHTS)['state_dict']
    state_dict = model.state_dict()
    assert {f'backbone.{name}' for name in state_dict} == weights.keys()
    for name, value in state_dict.items():
        assert torch.equal(value, weights[f'backbone.{name}'])


def test_mmengine_loads_them_too():
    loading.register_safe_loaders()
    assert (
        CheckpointLoader.load_checkpoint(WEIGHTS)['state_dict'].keys() == load_checkpoint(WEIGHTS)['state_dict'].keys()
    )


@pytest.mark.parametrize('name', ['focal_huge', '../weights/focal_nano_shapes', ''])
def test_unknown_name(name):
    with pytest.raises(CheckpointError, match='the package has no such weights; choose from: focal_nano_shapes'):
        load_checkpoint(f'mmfocal://{name}')


def test_they_are_small():
    sizes = [path.stat().st_size for path in Path(loading.__file__).parent.glob('*.safetensors')]
    assert 0 < sum(sizes) < 6e6
