"""Training and testing a classifier: resuming is exact, and two processes evaluate as one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, RUNNERS

import mmfocal.registration  # noqa: F401
from mmfocal.datasets.shapes import make_shape_folders
from mmfocal.engine import batch_size, read_config
from mmfocal.engine.command_line import enable_early_stopping, enable_ema, set_batch_size
from mmfocal.errors import ConfigError
from mmfocal.inference import Predictor
from mmfocal.weights import load_checkpoint

ROOT = Path(__file__).parents[2]
# All that is random in the recipe, in short.
CONFIG = """
_base_ = 'mmfocal::focal_nano_shapes.py'

model = dict(
    backbone=dict(drop_path_rate=0.2, init='released'),
    train_cfg=dict(_delete_=True, augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
)
augmentation = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=32, backend='pillow', interpolation='bicubic'),
    dict(type='RandAugment', policies='timm_increasing', num_policies=2, magnitude_level=9, magnitude_std=0.5),
    dict(type='RandomErasing', erase_prob=0.5, mode='rand'),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False, dataset=dict(pipeline=augmentation)
)
val_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=2)
randomness = dict(seed=0)
param_scheduler = [dict(type='WarmupCosineLR', warmup=1, end=2, by_epoch=True, convert_to_iter_based=True)]
"""


@HOOKS.register_module()
class Kill(Hook):
    """Stops training in the middle of the second epoch."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 7:
            raise KeyboardInterrupt


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """20 training and 9 validation images, and the config."""
    folder = tmp_path_factory.mktemp('classification')
    make_shape_folders(folder / 'shapes', num_train=20, num_val=9, size=32)
    (folder / 'short.py').write_text(CONFIG)
    return folder


@pytest.fixture(autouse=True)
def root(folder, monkeypatch):
    monkeypatch.setenv('SHAPES_CLASSIFICATION_ROOT', f'{folder}/shapes')
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def train(folder, work_dir, switches=(), **options):
    options = {key.replace('__', '.'): value for key, value in options.items()}
    cfg = read_config(folder / 'short.py', options)
    cfg.work_dir = cfg.experiment_name = cfg.visualizer.name = str(work_dir)
    for switch, value in switches:
        switch(cfg, value)
    RUNNERS.build(cfg).train()


def assert_same(one, other):
    one, other = (load_checkpoint(path) for path in (one, other))
    for key, value in one['state_dict'].items():
        assert torch.equal(value, other['state_dict'][key]), key
    for key, state in one['optimizer']['state'].items():
        assert all(torch.equal(state[name], other['optimizer']['state'][key][name]) for name in state)


def test_resuming_is_exact(folder, tmp_path):
    train(folder, tmp_path / 'whole')
    with pytest.raises(KeyboardInterrupt):
        train(
            folder,
            tmp_path / 'parts',
            custom_hooks=[dict(type='Kill')],
            default_hooks__checkpoint__resume_interval=2,
        )
    assert (tmp_path / 'parts/resume.pth').is_file()
    train(folder, tmp_path / 'parts', resume=True)
    assert_same(tmp_path / 'whole/epoch_2.pth', tmp_path / 'parts/epoch_2.pth')
    assert list((tmp_path / 'whole').glob('best_accuracy_top1_epoch_*.pth'))


def test_averages_and_early_stopping_resume_exactly(folder, tmp_path):
    switches, options = ((enable_ema, 0.1), (enable_early_stopping, 2)), dict(val_cfg__type='ValLossLoop')
    train(folder, tmp_path / 'whole', switches, **options)
    with pytest.raises(KeyboardInterrupt):
        train(
            folder,
            tmp_path / 'parts',
            switches,
            custom_hooks=[dict(type='Kill')],
            default_hooks__checkpoint__resume_interval=2,
            **options,
        )
    train(folder, tmp_path / 'parts', switches, resume=True, **options)
    one, other = (load_checkpoint(tmp_path / name / 'resume.pth') for name in ('whole', 'parts'))
    assert one['early_stopping'] == other['early_stopping']
    assert one['early_stopping']['monitor'] == 'accuracy/top1' and one['early_stopping']['best_score'] > 0
    assert_same(tmp_path / 'whole/epoch_2.pth', tmp_path / 'parts/epoch_2.pth')
    for key, value in one['ema_state_dict'].items():
        assert torch.equal(value, other['ema_state_dict'][key]), key
    name = 'backbone.norm3.weight'
    assert not torch.equal(one['state_dict'][name], one['ema_state_dict'][f'module.{name}'])

    # what is validated are the averages, and the validation loss is the cross-entropy
    (log,) = (tmp_path / 'whole').glob('*/vis_data/scalars.json')
    logged = [json.loads(line) for line in log.read_text().splitlines()][-1]
    predictor = Predictor(tmp_path / 'whole/epoch_2.pth')
    images = sorted((folder / 'shapes/val').rglob('*.jpg'))
    found = predictor(list(map(str, images)))
    scores = [one.scores[one.names.index(path.parent.name)] for one, path in zip(found, images)]
    assert logged['val_loss'] == pytest.approx(-np.log(scores).mean(), abs=1e-5)
    right = [one.names[0] == path.parent.name for one, path in zip(found, images)]
    assert logged['accuracy/top1'] == pytest.approx(100 * np.mean(right))


def test_batch_size_auto(folder, tmp_path, monkeypatch):
    """The trial takes mixed images of a classifier, and the learning rate is scaled by the images per step."""
    monkeypatch.setattr(batch_size, '_has_gpu', lambda: True)
    monkeypatch.setattr(batch_size, '_fits_gpu', lambda step: lambda number: number <= 3 and not step(number))
    train(folder, tmp_path, [(set_batch_size, 'auto')], train_cfg__max_epochs=1)
    checkpoint = load_checkpoint(tmp_path / 'epoch_1.pth')
    assert checkpoint['meta']['batch_size'] == 3
    assert checkpoint['optimizer']['param_groups'][0]['initial_lr'] == pytest.approx(5e-4 * 3 / 32)


def test_a_metric_that_does_not_come(folder, tmp_path):
    with pytest.raises(ConfigError, match='save_best=accuracy/top5: no such metric; val_evaluator gives accuracy/top1'):
        train(folder, tmp_path, default_hooks__checkpoint__save_best='accuracy/top5')


def test_a_head_of_another_number_of_classes(folder, tmp_path):
    with pytest.raises(ConfigError, match=r'model.head.num_classes=7 \(should be 4\)'):
        train(folder, tmp_path, model__head__num_classes=7)


def run(script, *args):
    path = f'{Path(sys.executable).parent}:{os.environ["PATH"]}'
    env = {**os.environ, 'PATH': path, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    command = ['bash', str(ROOT / 'tools' / script), *map(str, args)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def figures(work_dir):
    """The metrics of a test."""
    (file,) = Path(work_dir).glob('*/*.json')
    return {key: value for key, value in json.loads(file.read_text()).items() if 'accuracy' in key}


@pytest.mark.slow
def test_two_processes_evaluate_as_one_and_resume_exactly(folder, tmp_path):
    config, whole, parts = folder / 'short.py', tmp_path / 'whole', tmp_path / 'parts'
    run('dist_train.sh', config, 2, '--work-dir', whole)
    run('dist_train.sh', config, 2, '--work-dir', parts, '--cfg-options', 'train_cfg.max_epochs=1')
    run('dist_train.sh', config, 2, '--work-dir', parts, '--resume')
    assert_same(whole / 'epoch_2.pth', parts / 'epoch_2.pth')
    for number in (1, 2):  # 9 images do not divide into two
        run('dist_test.sh', config, whole / 'epoch_2.pth', number, '--work-dir', tmp_path / str(number))
    one, two = figures(tmp_path / '1'), figures(tmp_path / '2')
    assert one == two and one.keys() == {'accuracy/top1'}
