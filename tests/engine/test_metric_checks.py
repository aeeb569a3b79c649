"""Metric names that cannot come are refused before training; the validation loss comes on request."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.registry import RUNNERS
from mmengine.structures import InstanceData

import mmfocal.registration  # noqa: F401
from mmfocal.engine import read_config
from mmfocal.engine.validation_loss import as_image_is_resized
from mmfocal.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / 'configs'
QUICK = {
    'model.backbone.arch.depths': (1, 1, 1, 1),
    'param_scheduler': [],
    **{
        f'{split}_dataloader.{name}': value
        for split in ('train', 'val', 'test')
        for name, value in (('num_workers', 0), ('persistent_workers', False))
    },
}
EPOCH = {'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1}


@pytest.fixture
def build(shapes, tmp_path, monkeypatch):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes))

    def build(config, options):
        cfg = read_config(CONFIGS / f'{config}_focal_nano_shapes.py', QUICK | options)
        cfg.work_dir = cfg.experiment_name = cfg.visualizer.name = str(tmp_path)
        return RUNNERS.build(cfg)

    return build


@pytest.mark.parametrize(
    'config, options, message',
    [
        ('atss', {'default_hooks.checkpoint.save_best': 'coco/segm_mAP'}, 'save_best=coco/segm_mAP: no such metric'),
        ('atss', {'default_hooks.checkpoint.save_best': 'bbox_mAP'}, 'val_evaluator gives coco/bbox_mAP, '),
        ('atss', {'default_hooks.checkpoint.save_best': 'val_loss'}, 'save_best=val_loss: no such metric'),
        ('atss', {'val_evaluator.metric': ['bbox', 'segm']}, "val_evaluator.metric: 'segm' needs masks"),
        ('sparse_rcnn', {'val_evaluator.metric': ['segm']}, "val_evaluator.metric: 'segm' needs masks"),
        (
            'atss',
            {'custom_hooks': [dict(type='EarlyStoppingHook', monitor='coco/AP', rule='greater')]},
            'EarlyStoppingHook.monitor=coco/AP: no such metric',
        ),
        (
            'atss',
            {'param_scheduler': [dict(type='ReduceOnPlateauLR', monitor='loss', by_epoch=True)]},
            'param_scheduler.monitor=loss: no such metric',
        ),
        ('upernet', {'default_hooks.checkpoint.save_best': 'miou'}, 'val_evaluator gives aAcc, mAcc, mIoU'),
    ],
)
def test_names_that_cannot_come(build, config, options, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        build(config, options).train()
    assert not list(tmp_path.glob('*.pth'))


def test_segments_are_refused_when_testing_too(build):
    with pytest.raises(ConfigError, match="test_evaluator.metric: 'segm' needs masks"):
        build('retinanet', {'test_evaluator.metric': ['segm']}).test()


@pytest.mark.parametrize('config', ['mask_rcnn', 'cascade_mask_rcnn'])
def test_segments_of_models_with_masks(build, config):
    runner = build(config, {})
    runner._val_loop = runner.build_val_loop(runner._val_loop)
    runner.call_hook('before_run')


def test_no_validation_is_no_error(build, tmp_path):
    runner = build('atss', dict(val_dataloader=None, val_cfg=None, val_evaluator=None))
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.call_hook('before_run')
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'default_hooks.checkpoint.save_best: no effect, since nothing is validated' in log


@pytest.mark.slow
@pytest.mark.parametrize('config', ['atss', 'mask_rcnn', 'sparse_rcnn', 'reppointsv2'])
def test_the_validation_loss_is_that_of_the_images(build, config, tmp_path):
    options = {'val_cfg.type': 'ValLossLoop', 'default_hooks.checkpoint.save_best': 'val_loss'}
    options['default_hooks.checkpoint.rule'] = 'less'
    if config in ('atss', 'reppointsv2'):
        options['model.test_cfg.score_thr'] = 0.0  # or nothing is predicted yet
    runner = build(config, EPOCH | options)
    runner.train()
    lines = [json.loads(line) for line in next(tmp_path.glob('*/vis_data/scalars.json')).read_text().splitlines()]
    assert 0 < lines[-1]['val_loss'] < 100 and 'coco/bbox_mAP' in lines[-1]
    assert list(tmp_path.glob('best_val_loss_epoch_1.pth'))
    runner.model.eval()
    total, images = 0.0, 0
    for batch in runner.val_dataloader:  # these images are not resized, so the annotations fit
        data = runner.model.data_preprocessor(batch, False)
        with torch.no_grad():
            losses = runner.model.loss(data['inputs'], data['data_samples'])
        parsed, _ = runner.model.parse_losses(losses)
        total, images = total + float(parsed) * len(data['inputs']), images + len(data['inputs'])
    if config in ('atss', 'reppointsv2'):  # others sample at random
        assert lines[-1]['val_loss'] == pytest.approx(total / images, rel=1e-4)


@pytest.mark.slow
def test_the_validation_loss_of_a_segmentor(build, tmp_path):
    options = {'train_cfg.max_iters': 2, 'train_cfg.val_interval': 2, 'val_cfg.type': 'ValLossLoop'}
    build('upernet', options).train()
    lines = [json.loads(line) for line in next(tmp_path.glob('*/vis_data/scalars.json')).read_text().splitlines()]
    assert 0 < lines[-1]['val_loss'] < 100 and 'mIoU' in lines[-1]


def test_annotations_are_resized_as_the_image_is():
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import PixelData

    sample = DetDataSample(metainfo=dict(img_shape=(20, 40), ori_shape=(10, 10), scale_factor=(4.0, 2.0)))
    masks = BitmapMasks(torch.ones(1, 10, 10).numpy(), 10, 10)
    sample.gt_instances = InstanceData(bboxes=torch.tensor([[1.0, 2.0, 3.0, 4.0]]), masks=masks)
    sample.gt_sem_seg = PixelData(sem_seg=torch.arange(100).reshape(1, 10, 10))
    resized = as_image_is_resized(sample, resized_first=True)
    assert resized.gt_instances.bboxes.tolist() == [[4.0, 4.0, 12.0, 8.0]]
    assert (resized.gt_instances.masks.height, resized.gt_instances.masks.width) == (20, 40)
    assert resized.gt_sem_seg.sem_seg.shape == (1, 20, 40) and resized.gt_sem_seg.sem_seg[0, 19, 39] == 99
    assert sample.gt_instances.bboxes.tolist() == [[1.0, 2.0, 3.0, 4.0]]
    assert as_image_is_resized(sample, resized_first=False).gt_instances.bboxes.tolist() == [[1.0, 2.0, 3.0, 4.0]]
    with pytest.raises(ConfigError, match='val_cfg.type=ValLossLoop: no annotations'):
        as_image_is_resized(DetDataSample(), True)
