"""tools/train.py and tools/test.py as a user runs them."""

import json
import os
import pickle
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmfocal.weights import load_checkpoint

ROOT = Path(__file__).parents[2]
NANO = 'configs/atss_focal_nano_shapes.py'
QUICK = [
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False',
    'test_dataloader.num_workers=0',
    'test_dataloader.persistent_workers=False',
    'default_hooks.logger.interval=1',
    'model.backbone.arch.depths=(1,1,1,1)',
    'model.test_cfg.score_thr=0.',
]


def run(script, *args, **environment):
    """Runs a script of tools/ in a process of its own, with QUICK among its options."""
    args = [str(arg) for arg in args]
    if '--cfg-options' not in args:
        args.append('--cfg-options')
    return subprocess.run(
        [sys.executable, f'tools/{script}', *args, *QUICK],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **{key: str(value) for key, value in environment.items()}},
    )


def run_here(monkeypatch, capsys, script, *args):
    """Runs a script in this process; returns its exit code and its error output."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, 'argv', [script, *map(str, args)])
    capsys.readouterr()
    try:
        runpy.run_path(str(ROOT / 'tools' / script), run_name='__main__')
    except SystemExit as stop:
        return stop.code, capsys.readouterr().err
    return 0, capsys.readouterr().err


@pytest.fixture(scope='session')
def trained(shapes, tmp_path_factory):
    """A work directory with one epoch of the nano detector, and the log of its training."""
    work_dir = tmp_path_factory.mktemp('trained') / 'work dir'
    done = run(
        'train.py',
        NANO,
        '--work-dir',
        work_dir,
        '--auto-scale-lr',
        '--cfg-options',
        'train_cfg.max_epochs=1',
        'train_cfg.val_interval=1',
        'train_dataloader.batch_size=2',
        SHAPES_ROOT=shapes,
    )
    assert done.returncode == 0, done.stderr
    return work_dir, done.stdout + done.stderr


def test_training_logs_and_keeps(trained):
    work_dir, log = trained
    line = re.search(r'Epoch\(train\).*\[4/4\].*', log)[0]
    for part in ('eta: ', 'loss: ', 'loss_bbox: ', 'memory: ', 'time: ', 'lr: '):
        assert part in line
    assert 'Scaling the original LR by 0.5' in log
    assert 'coco/bbox_mAP' in log
    assert (work_dir / 'epoch_1.pth').is_file() and list(work_dir.glob('best_coco_bbox_mAP_epoch_1.pth'))
    assert list(work_dir.glob('*/vis_data/events.out.tfevents*')), 'TensorBoard is installed'
    scalars = [json.loads(line) for line in next(work_dir.glob('*/vis_data/scalars.json')).read_text().splitlines()]
    assert scalars[0]['loss'] > 0 and 'coco/bbox_mAP' in scalars[-1]


def test_resume_goes_on(trained, shapes, tmp_path):
    work_dir = tmp_path / 'resumed'
    shutil.copytree(trained[0], work_dir)
    done = run(
        'train.py',
        pretrained(tmp_path, 'unset'),
        '--work-dir',
        work_dir,
        '--resume',
        '--cfg-options',
        'train_cfg.max_epochs=2',
        'train_dataloader.batch_size=2',
        SHAPES_ROOT=shapes,
    )  # pretrained weights are not asked for again
    assert done.returncode == 0, done.stderr
    log = done.stdout + done.stderr
    assert 'resumed epoch: 1, iter: 4' in log and 'Epoch(train) [1]' not in log.replace('  ', ' ')
    checkpoint = load_checkpoint(work_dir / 'epoch_2.pth')
    assert checkpoint['meta']['epoch'] == 2 and checkpoint['meta']['iter'] == 8
    assert checkpoint['optimizer']['state'][0]['step'] == 8


def test_testing_with_all_options(trained, shapes, tmp_path):
    done = run(
        'test.py',
        NANO,
        trained[0] / 'epoch_1.pth',
        '--work-dir',
        tmp_path / 'work',
        '--out',
        tmp_path / 'out.pkl',
        '--show-dir',
        tmp_path / 'pictures',
        '--tta',
        SHAPES_ROOT=shapes,
    )
    assert done.returncode == 0, done.stderr
    assert 'coco/bbox_mAP' in done.stdout + done.stderr
    assert len(pickle.loads((tmp_path / 'out.pkl').read_bytes())) == 4
    assert len(list((tmp_path / 'pictures').glob('*.jpg'))) == 4


def test_tta_of_a_mask_config_is_of_boxes(shapes, tmp_path):
    config = 'configs/mask_rcnn_focal_nano_shapes.py'
    cfg = Config.fromfile(ROOT / config)
    cfg.model.backbone.arch.depths = (1, 1, 1, 1)
    init_default_scope('mmdet')
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), tmp_path / 'untrained.pth')
    done = run(
        'test.py',
        config,
        tmp_path / 'untrained.pth',
        '--work-dir',
        tmp_path,
        '--out',
        tmp_path / 'out.pkl',
        '--tta',
        '--cfg-options',
        'model.test_cfg.rcnn.score_thr=0.',
        SHAPES_ROOT=shapes,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('--tta: boxes only') == 1
    assert 'coco/bbox_mAP' in done.stdout + done.stderr and 'coco/segm_mAP' not in done.stdout + done.stderr
    predicted = pickle.loads((tmp_path / 'out.pkl').read_bytes())[0]['pred_instances']
    assert len(predicted['bboxes']) and 'masks' not in predicted


def change_annotations(folder, change):
    path = folder / 'annotations/instances_train2017.json'
    coco = json.loads(path.read_text())
    change(coco)
    path.write_text(json.dumps(coco))


@pytest.mark.parametrize(
    'spoil, sentence',
    [
        (lambda folder: shutil.rmtree(folder), 'folder not found'),
        (
            lambda folder: (folder / 'annotations/instances_train2017.json').unlink(),
            'annotations/instances_train2017.json not found',
        ),
        (
            lambda folder: (folder / 'annotations/instances_val2017.json').unlink(),
            'annotations/instances_val2017.json not found',
        ),
        (lambda folder: next((folder / 'train2017').iterdir()).unlink(), 'image not found (1 of 8'),
        (
            lambda folder: change_annotations(folder, lambda coco: coco['annotations'][2].update(category_id=77)),
            'has category_id 77',
        ),
    ],
    ids=['root', 'train file', 'val file', 'image', 'category'],
)
def test_bad_data_stops_training_with_a_sentence(spoil, sentence, shapes, tmp_path, monkeypatch, capsys):
    folder = tmp_path / 'data'
    shutil.copytree(shapes, folder)
    spoil(folder)
    monkeypatch.setenv('SHAPES_ROOT', str(folder))
    code, error = run_here(
        monkeypatch, capsys, 'train.py', NANO, '--work-dir', tmp_path / 'work', '--cfg-options', *QUICK
    )
    assert code == 1 and one_sentence(error) and sentence in error


def pretrained(folder, checkpoint):
    """Writes the demo's config with initial weights; returns its path."""
    path = folder / 'pretrained.py'
    path.write_text(
        "_base_ = 'mmfocal::atss_focal_nano_shapes.py'\n"
        f"init_cfg = dict(_delete_=True, type='Pretrained', checkpoint='{checkpoint}')\n"
        'model = dict(backbone=dict(init_cfg=init_cfg))\n'
    )
    return path


def test_absent_initial_weights_stop_training_with_a_sentence(shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes))
    config = pretrained(tmp_path, '/absent/focal.pth')
    code, error = run_here(monkeypatch, capsys, 'train.py', config, '--work-dir', tmp_path, '--cfg-options', *QUICK)
    assert code == 1 and one_sentence(error) and '/absent/focal.pth' in error


@pytest.mark.parametrize(
    'options, sentence',
    [
        (['model.backbone.expand_size=3'], "unexpected keyword argument 'expand_size'"),
        (['model.backbone.window_size=0'], 'stage 0: window_size must be an integer of at least 1, got 0'),
        (['model.backbone.focal_levels=(2,2,2)'], 'focal_levels must have 4 entries'),
        (['default_scope=mmsegmental'], 'package mmsegmental not installed; pip install mmsegmental'),
        (
            ["train_dataloader.dataset.metainfo.classes=('circle','squares')"],
            "metainfo.classes: 'squares' not in the categories of",
        ),
        (
            ["val_dataloader.dataset.metainfo.classes=('circle','squares')"],
            'metainfo.classes of train_dataloader.dataset and of val_data',
        ),
        (
            ["val_dataloader.dataset.metainfo.classes=('circle','square')"],
            'metainfo.classes of train_dataloader.dataset and of val_data',
        ),
        (
            ['model.bbox_head.num_classes=80'],
            'model.bbox_head.num_classes=80 (should be 4): train_dataloader.dataset has 4 classes',
        ),
        (
            ['val_evaluator.ann_file=/absent/val.json'],
            '/absent/val.json: file not found; set ann_file of val_evaluator',
        ),
    ],
)
def test_bad_configs_stop_training_with_a_sentence(options, sentence, shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes))
    code, error = run_here(
        monkeypatch, capsys, 'train.py', NANO, '--work-dir', tmp_path, '--cfg-options', *QUICK, *options
    )
    assert code == 1 and one_sentence(error) and sentence in error


@pytest.mark.parametrize(
    'config, head',
    [
        ('mask_rcnn', 'bbox_head'),
        ('mask_rcnn', 'mask_head'),
        ('cascade_mask_rcnn', 'bbox_head.1'),
        ('sparse_rcnn', 'bbox_head.2'),
    ],
)
def test_every_head_has_the_data_sets_number_of_classes(config, head, shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes))
    code, error = run_here(
        monkeypatch,
        capsys,
        'train.py',
        f'configs/{config}_focal_nano_shapes.py',
        '--work-dir',
        tmp_path,
        '--cfg-options',
        *QUICK,
        f'model.roi_head.{head}.num_classes=7',
    )
    assert code == 1 and one_sentence(error)
    assert f'error: model.roi_head.{head}.num_classes=7 (should be 4): train_dataloader.dataset has 4 classes' in error


@pytest.mark.parametrize(
    'change, sentence',
    [
        (
            lambda coco: coco['categories'][1].update(name='box'),
            'val_evaluator.ann_file lacks categories or images of val_dataloader.dataset',
        ),
        (lambda coco: coco['images'].pop(), 'has image_id'),
        (
            lambda coco: [coco['images'].pop(), coco.update(annotations=[])],
            'val_evaluator.ann_file lacks categories or images',
        ),
        (lambda coco: coco['annotations'][0].update(category_id=77), 'has category_id 77'),
    ],
    ids=['name', 'image', 'other images', 'category'],
)
def test_the_evaluators_file_is_the_data_sets(change, sentence, shapes, tmp_path, monkeypatch, capsys):
    coco = json.loads((shapes / 'annotations/instances_val2017.json').read_text())
    change(coco)
    (tmp_path / 'other.json').write_text(json.dumps(coco))
    monkeypatch.setenv('SHAPES_ROOT', str(shapes))
    code, error = run_here(
        monkeypatch,
        capsys,
        'train.py',
        NANO,
        '--work-dir',
        tmp_path,
        '--cfg-options',
        *QUICK,
        f'val_evaluator.ann_file={tmp_path}/other.json',
    )
    assert code == 1 and one_sentence(error) and sentence in error


def test_weights_have_to_be_named(shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('COCO_ROOT', str(shapes))
    monkeypatch.delenv('FOCAL_TINY', raising=False)
    classes = [
        f"{split}_dataloader.dataset.metainfo.classes=('circle','square','triangle','cross')"
        for split in ('train', 'val')
    ]
    code, error = run_here(
        monkeypatch,
        capsys,
        'train.py',
        'configs/atss_focal_tiny_3x.py',
        '--work-dir',
        tmp_path,
        '--cfg-options',
        *QUICK[:6],
        *classes,
        'model.bbox_head.num_classes=4',
    )
    assert code == 1 and one_sentence(error)
    assert (
        'set the environment variable FOCAL_TINY to the path or URL of a checkpoint' in error
        and 'FOCAL_TINY=none' in error
    )


def test_amp_needs_a_gpu(shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    code, error = run_here(monkeypatch, capsys, 'train.py', NANO, '--amp', '--work-dir', tmp_path)
    assert code == 1 and one_sentence(error) and '--amp: PyTorch sees no GPU' in error


@pytest.mark.parametrize('has_bf16, dtype', [(True, 'bfloat16'), (False, 'float16')])
def test_amp_takes_bfloat16_where_it_is(has_bf16, dtype, monkeypatch):
    from mmfocal.engine.command_line import enable_amp

    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation: has_bf16)
    cfg = Config(dict(optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='AdamW'))))
    enable_amp(cfg)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper' and cfg.optim_wrapper.dtype == dtype
    assert (cfg.optim_wrapper.loss_scale == 'dynamic') != has_bf16


def test_an_absent_config(tmp_path, monkeypatch, capsys):
    code, error = run_here(monkeypatch, capsys, 'train.py', tmp_path / 'none.py')
    assert code == 1 and one_sentence(error) and 'none.py: no such config' in error


def test_bad_checkpoints_stop_testing_with_a_sentence(trained, shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes))
    whole = (trained[0] / 'epoch_1.pth').read_bytes()
    (tmp_path / 'cut.pth').write_bytes(whole[: len(whole) // 2])
    torch.save(dict(state_dict={'backbone.conv1.weight': torch.zeros(3)}), tmp_path / 'other.pth')
    checkpoint = load_checkpoint(trained[0] / 'epoch_1.pth')
    for name, value in checkpoint['state_dict'].items():
        if name == 'bbox_head.atss_cls.weight':
            checkpoint['state_dict'][name] = value[:2]
    torch.save(checkpoint, tmp_path / 'classes.pth')
    torch.save(dict(state_dict=load_checkpoint(trained[0] / 'epoch_1.pth')['state_dict']), tmp_path / 'weights.pth')
    test = ['test.py', NANO, '{}', '--work-dir', tmp_path / 'work']
    resume = ['train.py', NANO, '--work-dir', tmp_path / 'work', '--resume', '{}']
    for command, name, sentence in (
        (test, 'absent.pth', 'there is no such checkpoint file'),
        (test, 'cut.pth', 'truncated or not a checkpoint'),
        (test, 'other.pth', 'other.pth: does not fit the model, backbone'),
        (test, 'classes.pth', 'bbox_head.atss_cls.weight is (2, 48, 3, 3) in the file and (4, 48, 3, 3) in the model'),
        (resume, 'weights.pth', 'only weights, which training cannot resume from'),
        (resume, 'classes.pth', 'does not fit the model'),
    ):
        args = [str(arg).format(tmp_path / name) for arg in command]
        code, error = run_here(monkeypatch, capsys, *args, '--cfg-options', *QUICK)
        assert code == 1 and one_sentence(error) and sentence in error and name in error


def one_sentence(error):
    """Whether the last thing said is one line that starts with `error:`, and no traceback stands before it."""
    return error.splitlines()[-1].startswith('error: ') and 'Traceback' not in error and error.count('error: ') == 1
