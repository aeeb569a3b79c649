"""`mmfocal train` and `test` with configs of MMDetection and MMSegmentation, without our backbone."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmfocal import CONFIGS
from mmfocal.cli.guards import add_guards
from mmfocal.engine import read_config
from mmfocal.weights import load_checkpoint

ROOT = Path(__file__).parents[2]
CLASSES = "('circle','square','triangle','cross')"
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
COMMON = [f'{loader}.{key}' for loader in LOADERS for key in ('num_workers=0', 'persistent_workers=False')]
COMMON += [
    'randomness.seed=0',
    'model.backbone.depth=18',
    'model.backbone.init_cfg=None',
    'default_hooks.logger.interval=1',
]
DETECTION = [
    *COMMON,
    *(f'{loader}.dataset.{key}' for loader in LOADERS for key in ('data_root=SHAPES/', f'metainfo.classes={CLASSES}')),
    'train_dataloader.dataset.pipeline.2.scale=(96,96)',
    'train_dataloader.batch_size=4',
    *(f'{loader}.dataset.pipeline.1.scale=(96,96)' for loader in LOADERS[1:]),
    *(f'{key}_evaluator.ann_file=SHAPES/annotations/instances_val2017.json' for key in ('val', 'test')),
    'model.neck.in_channels=[64,128,256,512]',
    'train_cfg.max_epochs=1',
]
SEGMENTATION = [
    *COMMON,
    *(f'{loader}.dataset.data_root=SHAPES/' for loader in LOADERS),
    'train_dataloader.dataset.data_prefix.img_path=train2017',
    'train_dataloader.dataset.data_prefix.seg_map_path=annotations/semantic_train2017',
    *(f'{loader}.dataset.data_prefix.img_path=val2017' for loader in LOADERS[1:]),
    *(f'{loader}.dataset.data_prefix.seg_map_path=annotations/semantic_val2017' for loader in LOADERS[1:]),
    'model.pretrained=None',
    'model.decode_head.in_channels=512',
    'model.auxiliary_head.in_channels=256',
    'model.data_preprocessor.size=(64,64)',
    'train_dataloader.dataset.pipeline.2.scale=(64,64)',
    'train_dataloader.dataset.pipeline.3.crop_size=(64,64)',
    *(f'{loader}.dataset.pipeline.1.scale=(64,64)' for loader in LOADERS[1:]),
    'train_cfg.max_iters=2',
    'train_cfg.val_interval=2',
    'default_hooks.checkpoint.interval=2',
]
CONFIGS_OF_OTHERS = {
    'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py': [
        *DETECTION,
        'model.bbox_head.num_classes=4',
        'model.test_cfg.score_thr=0.',
    ],
    'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py': [
        *DETECTION,
        'model.roi_head.bbox_head.num_classes=4',
        'model.roi_head.mask_head.num_classes=4',
        'model.test_cfg.rcnn.score_thr=0.',
    ],
    'mmseg::fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py': SEGMENTATION,
}
RETINANET, _, FCN = CONFIGS_OF_OTHERS


def run(shapes, command, config, *args, options=()):
    """Runs `mmfocal COMMAND` in a process of its own; returns its exit code and output."""
    options = [option.replace('SHAPES', str(shapes)) for option in [*CONFIGS_OF_OTHERS[config], *options]]
    done = subprocess.run(
        [sys.executable, '-m', 'mmfocal', command, config, *map(str, args), '--cfg-options', *options],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    return done.returncode, done.stdout + done.stderr


def test_a_detection_config_gets_guards(capsys):
    cfg = read_config(RETINANET)
    add_guards(cfg)
    said = capsys.readouterr().out
    hooks = {name: hook.type for name, hook in cfg.default_hooks.items()}
    assert hooks['checkpoint'] == 'SafeCheckpointHook' and hooks['divergence'] == 'DivergenceHook'
    assert hooks['bad_data'] == 'BadDataHook' and hooks['check_classes'].startswith('Check')
    assert {cfg[loader].dataset.type for loader in LOADERS} == {'CheckedCocoDataset'}
    assert cfg.val_evaluator.type == cfg.test_evaluator.type == 'CheckedCocoMetric'
    assert 'CocoDataset -> CheckedCocoDataset; CocoMetric -> CheckedCocoMetric' in said and said.count('\n') == 1
    saved = cfg.to_dict()
    add_guards(cfg)  # it is now one that imports the registration
    assert cfg.to_dict() == saved and capsys.readouterr().out == ''


def test_a_segmentation_config_gets_guards():
    cfg = read_config(FCN)
    cfg.val_dataloader.dataset.pipeline[2].some_key = 1  # which our loader does not have
    add_guards(cfg)
    assert cfg.train_dataloader.dataset.type == 'CheckedADE20KDataset'
    assert cfg.train_dataloader.dataset.pipeline[1].type == 'LoadCheckedAnnotations'
    assert 'reduce_zero_label' not in cfg.train_dataloader.dataset.pipeline[1]  # comes from the data set
    assert cfg.val_dataloader.dataset.pipeline[2].type == 'LoadAnnotations'


def test_wrapped_data_sets_and_what_is_there_already():
    coco = dict(type='mmdet.CocoDataset')
    cfg = Config(
        dict(
            default_scope='mmdet',
            custom_imports=dict(imports='mine', allow_failed_imports=True),
            train_dataloader=dict(
                dataset=dict(type='RepeatDataset', dataset=dict(type='ConcatDataset', datasets=[coco]))
            ),
            val_dataloader=dict(dataset=dict(type='CityscapesDataset')),  # MMDetection's, which is of instances
            val_evaluator=[dict(type='CocoMetric'), dict(type='VOCMetric')],
            default_hooks=dict(timer=None),
            custom_hooks=[dict(type='DivergenceHook', skip=3)],
        )
    )
    add_guards(cfg)
    assert cfg.train_dataloader.dataset.dataset.datasets[0].type == 'CheckedCocoDataset'
    assert cfg.val_dataloader.dataset.type == 'CityscapesDataset'
    assert [one.type for one in cfg.val_evaluator] == ['CheckedCocoMetric', 'VOCMetric']
    assert cfg.default_hooks.timer is None and 'divergence' not in cfg.default_hooks
    assert cfg.custom_imports == dict(imports=['mine', 'mmfocal.registration'], allow_failed_imports=True)


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('*.py')), ids=lambda path: path.stem)
def test_our_configs_stay(path):
    cfg = read_config(path)
    before = cfg.to_dict()
    add_guards(cfg)
    assert cfg.to_dict() == before


@pytest.mark.slow
@pytest.mark.parametrize('config', CONFIGS_OF_OTHERS)
def test_stock_configs_train_test_and_resume_exactly(config, shapes, tmp_path):
    by_epoch = config != FCN
    longer = ['train_cfg.max_epochs=2'] if by_epoch else ['train_cfg.max_iters=4']
    name, last = ('epoch_1.pth', 'epoch_2.pth') if by_epoch else ('iter_2.pth', 'iter_4.pth')
    code, log = run(shapes, 'train', config, '--work-dir', tmp_path / 'whole', options=longer)
    assert code == 0, log
    assert '+ DivergenceHook' in log and re.search('bbox_mAP|mIoU', log)
    code, log = run(shapes, 'train', config, '--work-dir', tmp_path / 'parts')
    assert code == 0, log
    (tmp_path / 'parts' / last).write_bytes((tmp_path / 'parts' / name).read_bytes()[:9999])  # damaged: passed over
    code, log = run(shapes, 'train', config, '--work-dir', tmp_path / 'parts', '--resume', options=longer)
    assert code == 0, log
    whole, parts = (load_checkpoint(tmp_path / folder / last)['state_dict'] for folder in ('whole', 'parts'))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[key], parts[key]) for key in whole)
    code, log = run(shapes, 'test', config, tmp_path / 'parts' / last, '--work-dir', tmp_path / 'test')
    assert code == 0 and re.search('bbox_mAP|mIoU', log), log


def spoil(folder, **changes):
    path = folder / 'annotations/instances_train2017.json'
    coco = json.loads(path.read_text())
    coco['annotations'][0].update(changes)
    path.write_text(json.dumps(coco))


@pytest.mark.slow
def test_bad_data_and_divergence_of_a_stock_config(shapes, tmp_path):
    code, log = run(shapes, 'train', RETINANET, '--work-dir', tmp_path, options=['optim_wrapper.optimizer.lr=1e30'])
    assert code == 1 and 'Traceback' not in log and 'error: ' in log.splitlines()[-1], log
    assert re.search('NaN|nan|infinite', log.splitlines()[-1])
    shutil.copytree(shapes, tmp_path / 'data')
    spoil(tmp_path / 'data', category_id=77)
    for command in ('train', 'check-dataset'):
        code, log = run(tmp_path / 'data', command, RETINANET)
        assert code == 1 and 'category_id 77' in log and 'Traceback' not in log, log
    code, log = run(shapes, 'train', RETINANET, options=['model.bbox_head.num_classes=7'])
    assert code == 1 and 'model.bbox_head.num_classes=7 (should be 4): train_dataloader.dataset has 4 classes' in log
