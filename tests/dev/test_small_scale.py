"""dev/small_scale.py: networks of like size, and a table and a plot of unfinished results."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from mmfocal.errors import MissingFileError, UserError

DEV = Path(__file__).parents[2] / 'dev'


@pytest.fixture(scope='module')
def script():
    sys.path.insert(0, str(DEV))
    yield importlib.import_module('small_scale')
    sys.path.remove(str(DEV))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Two images of each of ten classes."""
    root, rng = tmp_path_factory.mktemp('classes'), np.random.default_rng(0)
    for split in ('train', 'test'):
        for label in range(10):
            (root / split / f'class{label}').mkdir(parents=True)
            for index in range(2):
                image = rng.integers(0, 255, (32, 32, 3), np.uint8)
                cv2.imwrite(str(root / split / f'class{label}/{index}.png'), image)
    return root


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_networks_have_like_sizes(script):
    focal = count(script.Classifier('Focal'))
    for name, (depth, _) in script.MODELS.items():
        model = script.Classifier(name)
        assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 10)
        if depth in (0, 2):
            assert count(model) == pytest.approx(focal, rel=0.1)


def test_panels_name_models(script):
    assert {name for panel in script.PANELS.values() for name in panel} == set(script.MODELS)


def test_resumes_and_plots(script, folder, tmp_path, capsys):
    args = SimpleNamespace(folder=folder, out=tmp_path / 'results.json', steps=1, seeds=1, limit=None, only=['Swin'])
    script.train(args)
    args.only, args.seeds = ['Swin', 'Focal'], 2
    capsys.readouterr()
    script.train(args)
    assert capsys.readouterr().out.count('of CPU time') == 3  # seed 0 of Swin was there
    runs = json.loads(args.out.read_text())['runs']
    assert [(run['model'], run['seed']) for run in runs] == [('Swin', 0), ('Swin', 1), ('Focal', 0), ('Focal', 1)]
    plot = SimpleNamespace(results=args.out, out=tmp_path / 'plot.png')
    with pytest.raises(UserError, match='no comparison'):
        script.plot(plot)
    args.only, args.seeds = ['ResNet'], 1
    script.train(args)
    script.plot(plot)
    assert cv2.imread(str(plot.out)).shape[1] > 200
    args.steps = 2
    with pytest.raises(UserError, match='other settings'):
        script.train(args)


def test_pretrains_the_backbone_of_a_detector(script, folder, tmp_path):
    out = tmp_path / 'backbone.pth'
    args = dict(config='atss_focal_nano_shapes', folder=str(folder), out=str(out), size=56, steps=1, seed=0)
    script.pretrain(SimpleNamespace(**args))
    cfg = script.read_config(args['config'])
    backbone = cfg.model.backbone.to_dict() | dict(init_cfg=dict(type='Pretrained', checkpoint=str(out)))
    model = script.BACKBONES.build(backbone)
    model.init_weights()
    written = torch.load(out, weights_only=True)['state_dict']
    for name, value in model.state_dict().items():
        assert torch.equal(value, written[f'backbone.{name}'])
    with pytest.raises(MissingFileError, match='train/CLASS/'):
        script.pretrain(SimpleNamespace(**args | dict(folder=str(tmp_path), out=str(tmp_path / 'other.pth'))))
