"""Checkpoints in one safetensors file, and folders for the Hugging Face Hub."""

import re
import sys

import numpy as np
import pytest
import torch
import yaml
from export_models import build
from mmengine.logging import HistoryBuffer
from PIL import Image

import mmfocal
from mmfocal.cli import main
from mmfocal.inference import load_model
from mmfocal.weights import load_checkpoint

METRICS = {'coco/bbox_mAP': 0.5, 'coco/bbox_mAP_50': 0.75, 'coco/bbox_mAP_l': -1.0}


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """A training checkpoint: with an optimizer, and with figures of two validations."""
    path = tmp_path_factory.mktemp('checkpoint') / 'epoch_2.pth'
    model, cfg = build('atss_focal_nano_shapes')
    scalars = {f'val/{name}': HistoryBuffer([0.1, value], [1, 1]) for name, value in METRICS.items()}
    scalars |= {'val/time': HistoryBuffer([1.0], [1]), 'train/loss': HistoryBuffer([1.0], [1])}
    meta = dict(epoch=2, cfg=cfg.pretty_text, dataset_meta=model.dataset_meta)
    hub = dict(log_scalars=scalars, runtime_info={}, resumed_keys={})
    torch.save(dict(state_dict=model.state_dict(), optimizer={}, meta=meta, message_hub=hub), path)
    return path


def run(monkeypatch, *args):
    monkeypatch.setattr(sys, 'argv', ['mmfocal', *map(str, args)])
    main()


def test_safetensors_hold_what_predicting_needs(checkpoint, tmp_path, monkeypatch, capsys):
    out = tmp_path / 'model.safetensors'
    run(monkeypatch, 'export', checkpoint, '--format', 'safetensors', '--out', out)
    assert re.search(r'config, \d classes, 3 metrics; loads equal', capsys.readouterr().out)
    content = load_checkpoint(out)
    assert content['meta']['metrics'] == METRICS and content['meta']['source'] == 'epoch_2.pth'
    model, _ = load_model(checkpoint, device='cpu')
    again, cfg = load_model(out, device='cpu')
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert again.dataset_meta['classes'] == model.dataset_meta['classes'] and cfg.model.type == 'ATSS'


def test_a_safetensors_file_starts_training_and_backbones(checkpoint, tmp_path, monkeypatch):
    out = tmp_path / 'model.safetensors'
    run(monkeypatch, 'export', checkpoint, '--format', 'safetensors', '--out', out)
    model, _ = build('atss_focal_nano_shapes', init_cfg=dict(type='Pretrained', checkpoint=str(out)))
    model.init_weights()
    trained = load_checkpoint(checkpoint)['state_dict']
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, trained[f'backbone.{name}']), name


def test_the_example_of_a_hub_folder_runs(checkpoint, tmp_path, monkeypatch, capsys):
    folder = tmp_path / 'atss-shapes'
    run(monkeypatch, 'hub-folder', checkpoint, folder, '--license', 'apache-2.0')
    assert sorted(path.name for path in folder.iterdir()) == ['README.md', 'config.py', 'model.safetensors']
    card = (folder / 'README.md').read_text()
    front = yaml.safe_load(card.split('---\n')[1])
    assert front['license'] == 'apache-2.0' and front['pipeline_tag'] == 'object-detection'
    result = front['model-index'][0]['results'][0]
    assert {metric['name']: metric['value'] for metric in result['metrics']} == {
        name: value for name, value in METRICS.items() if value >= 0
    }
    assert '| coco/bbox_mAP | 0.5 |' in card
    (code,) = re.findall(r'```python\n(.*?)```', card, re.DOTALL)
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(folder / 'image.jpg')
    monkeypatch.chdir(folder)
    names: dict = {}
    exec(code, names)
    assert names['prediction'].boxes.shape[1] == 4
    assert mmfocal.Predictor is type(names['predictor'])


def test_mistakes_are_one_sentence(checkpoint, tmp_path, monkeypatch, capsys):
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full/file').touch()
    (tmp_path / 'there.onnx').touch()
    monkeypatch.chdir(tmp_path)
    for args, message in (
        (('hub-folder', checkpoint, tmp_path / 'full'), 'it exists and is not empty'),
        (('export', checkpoint, '--format', 'safetensors', '--fp16'), 'takes only --config and --out'),
        (('export', checkpoint, '--out', tmp_path / 'there.onnx'), 'the file exists already'),
        (('export', checkpoint, '--out', tmp_path / 'model.pt2'), 'files of onnx end with .onnx'),
        (('export', tmp_path / 'none.pth'), 'no such checkpoint'),
        (('export', checkpoint, '--out', tmp_path / 'model.onnx'), 'pass --size'),
    ):
        with pytest.raises(SystemExit) as end:
            run(monkeypatch, *args)
        assert end.value.code not in (0, None)
        assert message in capsys.readouterr().err + str(end.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['full', 'there.onnx']
