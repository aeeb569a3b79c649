"""tools/train.py and tools/test.py with label maps, as a user runs them."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmseg.datasets import BaseSegDataset

from mmfocal.datasets.shapes import make_shapes
from mmfocal.weights import load_checkpoint

ROOT = Path(__file__).parents[2]
CONFIG = """
default_scope = 'mmseg'
custom_imports = dict(imports=['mmfocal.registration'], allow_failed_imports=False)
arch = dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2))
head = dict(type='FCNHead', channels=8, num_convs=1, num_classes=5, norm_cfg=dict(type='SyncBN'))
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[127.] * 3, std=[60.] * 3, bgr_to_rgb=True, size=(64, 64)),
    backbone=dict(type='FocalTransformer', arch=arch, border='mask', out_indices=(0, 3)),
    decode_head=dict(head, in_channels=8, in_index=0),
    auxiliary_head=dict(head, in_channels=64, in_index=1),
    test_cfg=dict(mode='whole'))
image, labels = dict(type='LoadImageFromFile'), dict(type='LoadCheckedAnnotations')
pack = dict(type='PackSegInputs')
dataset = dict(
    type='LabelMapDataset', data_root='{{$SHAPES_ROOT:data/shapes/}}',
    serialize_data=False,  # it collects garbage first, which takes a second
    metainfo=dict(classes=('background', 'circle', 'square', 'triangle', 'cross')))
train_dataloader = dict(batch_size=4, num_workers=1, sampler=dict(type='InfiniteSampler'), dataset=dict(
    dataset, data_prefix=dict(img_path='train2017', seg_map_path='annotations/semantic_train2017'),
    pipeline=[image, labels, dict(type='RandomCrop', crop_size=(64, 64)), pack]))
val_dataloader = dict(batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dict(
    dataset, data_prefix=dict(img_path='val2017', seg_map_path='annotations/semantic_val2017'),
    test_mode=True, pipeline=[image, dict(type='Resize', scale=(96, 96), keep_ratio=True), labels, pack]))
test_dataloader = val_dataloader
val_evaluator = dict(type='CheckedIoUMetric', iou_metrics=['mIoU'])
test_evaluator = [val_evaluator, dict(type='IoUMetric', iou_metrics=['mDice'], prefix='dice')]
tta_model = dict(type='SegTTAModel')
tta_pipeline = [image, dict(type='TestTimeAug', transforms=[
    [dict(type='Resize', scale=(side, side), keep_ratio=True) for side in (64, 96)],
    [dict(type='RandomFlip', prob=p) for p in (0., 1.)], [labels], [pack]])]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=2)
val_cfg, test_cfg = dict(type='ValLoop'), dict(type='TestLoop')
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-3))
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=False),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2, save_best='mIoU'),
    visualization=dict(type='PicturesHook'))
custom_hooks = [dict(type='HostMemoryHook'), dict(type='CheckClassesHook')]
visualizer = dict(
    type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer', alpha=1.)
log_processor = dict(by_epoch=False)
"""


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp('config') / 'fcn_focal.py'
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data') / 'shapes'
    make_shapes(folder, num_train=16, num_val=4, size=(64, 80))
    return folder


def run(shapes, script, *args):
    command = [sys.executable if script.endswith('.py') else 'bash', f'tools/{script}', *map(str, args)]
    path = f'{Path(sys.executable).parent}:{os.environ["PATH"]}'
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, 'SHAPES_ROOT': f'{shapes}/', 'PATH': path, 'OMP_NUM_THREADS': '1'},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_training_resuming_and_testing(config, shapes, tmp_path):
    work_dir = tmp_path / 'work'
    log = run(shapes, 'dist_train.sh', config, 2, '--work-dir', work_dir)
    for part in ('Iter(train) [2/2]', 'decode.loss_ce: ', 'aux.loss_ce: ', 'memory: ', 'mIoU: '):
        assert part in log
    assert list(work_dir.glob('best_mIoU_iter_2.pth'))
    log = run(shapes, 'train.py', config, '--work-dir', work_dir, '--resume', '--cfg-options', 'train_cfg.max_iters=4')
    assert 'resumed epoch: 0, iter: 2' in log
    assert 'Iter(train) [3/4]' in log and 'Iter(train) [1/4]' not in log
    assert load_checkpoint(work_dir / 'iter_4.pth')['meta']['iter'] == 4

    log = run(
        shapes,
        'test.py',
        config,
        work_dir / 'iter_4.pth',
        '--work-dir',
        work_dir,
        '--tta',
        '--out',
        tmp_path / 'maps',
        '--show-dir',
        tmp_path / 'pictures',
    )
    assert 'mIoU: ' in log and 'dice/mDice: ' in log
    # Ground truth is at the left of a picture; at the right are the predictions, which --out has written.
    metainfo = dict(classes=('background', 'circle', 'square', 'triangle', 'cross'))
    palette = np.array(BaseSegDataset(metainfo=metainfo, lazy_init=True).metainfo['palette'])
    for path in (shapes / 'annotations/semantic_val2017').iterdir():
        truth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        predicted = cv2.imread(str(tmp_path / 'maps' / path.name), cv2.IMREAD_UNCHANGED)
        picture = cv2.imread(str(next((tmp_path / 'pictures').rglob(f'*{path.stem}*.png'))))[..., ::-1]
        assert truth.shape == predicted.shape and picture.shape == (truth.shape[0], 2 * truth.shape[1], 3)
        same = picture == palette[np.hstack([truth, predicted])]
        assert same.all(-1).mean() > 0.6, 'all but the names of the classes'


def end_of_training(monkeypatch, capsys, *args):
    """Runs tools/train.py in this process until its error."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, 'argv', ['train.py', *map(str, args)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        runpy.run_path('tools/train.py', run_name='__main__')
    error = capsys.readouterr().err
    assert stop.value.code == 1 and 'Traceback' not in error and error.count('error: ') == 1
    return error.splitlines()[-1]


def spoil_label_maps(folder, change):
    for path in (folder / 'annotations/semantic_train2017').iterdir():
        cv2.imwrite(str(path), change(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)))


def empty(folder):
    for path in folder.iterdir():
        path.write_bytes(b'')


@pytest.mark.parametrize(
    'spoil, sentence',
    [
        (lambda folder: shutil.rmtree(folder), 'folder not found; set SHAPES_ROOT'),
        (
            lambda folder: shutil.rmtree(folder / 'annotations/semantic_val2017'),
            'annotations/semantic_val2017 not found; set SHAPES_ROOT or data_prefix.seg_map_path',
        ),
        (
            lambda folder: [path.unlink() for path in (folder / 'train2017').iterdir()],
            '/train2017: holds no image *.jpg; ',
        ),
        (
            lambda folder: next((folder / 'annotations/semantic_train2017').iterdir()).unlink(),
            '.png: label map not found (1 of 16 images have none); ',
        ),
        (lambda folder: spoil_label_maps(folder, lambda labels: labels[1:]), ' px, but its image has '),
        (
            lambda folder: spoil_label_maps(folder, lambda labels: np.where(labels, labels, 200).astype(np.uint8)),
            '.png: holds the label values 200, but the 5 classes have the values 0 to 4 (255 is ignored); ',
        ),
        (lambda folder: empty(folder / 'train2017'), '.jpg: not an image, or damaged; '),
        (lambda folder: empty(folder / 'annotations/semantic_train2017'), '.png: not an image, or damaged; '),
    ],
    ids=['root', 'label folder', 'images', 'label map', 'sizes', 'values', 'empty images', 'empty label maps'],
)
def test_bad_data_stops_training(spoil, sentence, config, shapes, tmp_path, monkeypatch, capsys):
    folder = tmp_path / 'data'
    shutil.copytree(shapes, folder)
    spoil(folder)
    monkeypatch.setenv('SHAPES_ROOT', f'{folder}/')
    error = end_of_training(monkeypatch, capsys, config, '--work-dir', tmp_path / 'work')
    assert error.removeprefix('error: SHAPES_ROOT=').removeprefix('error: ').startswith(f'{folder}/')
    assert sentence in error


@pytest.mark.parametrize(
    'option, sentence',
    [
        (
            'model.auxiliary_head.num_classes=150',
            'model.auxiliary_head.num_classes=150 (should be 5): train_dataloader.dataset has 5 classes',
        ),
        (
            "val_dataloader.dataset.metainfo.classes=('background','circle')",
            'metainfo.classes of train_dataloader.dataset and of val_dataloader.dataset differ',
        ),
        (
            'train_dataloader.dataset.type=CheckedADE20KDataset',
            "metainfo.classes: 'background' (5 of 5) is not a class of CheckedADE20KDataset",
        ),
    ],
)
def test_bad_configs_stop_training(option, sentence, config, shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('SHAPES_ROOT', f'{shapes}/')
    error = end_of_training(monkeypatch, capsys, config, '--work-dir', tmp_path, '--cfg-options', option)
    assert sentence in error
