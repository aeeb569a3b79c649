"""Configs of Panoptic FPN and Mask2Former on COCO: their recipes; each trains a step and predicts."""

import gc
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.evaluation import INSTANCE_OFFSET
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData

import mmfocal.registration  # noqa: F401

FOLDER = Path(__file__).parents[2] / 'configs'
PARAMETERS = {
    'panoptic_fpn_r50_1x': 46027110,
    'panoptic_fpn_swin_tiny_1x': 49425376,
    'panoptic_fpn_focal_tiny_1x': 50246722,
    'panoptic_fpn_focal_base_1x': 111012614,
    'mask2former_panoptic_r50_50e': 44036998,  # 44 M in its paper's Table 1
    'mask2former_panoptic_swin_tiny_50e': 47435264,  # 47 M there
    'mask2former_panoptic_focal_tiny_50e': 48256610,
    'mask2former_panoptic_focal_base_50e': 109022502,
    'mask2former_instance_focal_tiny_50e': 48242989,
    'mask2former_instance_focal_base_50e': 109008881,
}
REPRESENTATIVES = [name for name in PARAMETERS if 'focal_tiny' in name]
THINGS, STUFF, VOID = 80, 53, 133


@pytest.fixture(autouse=True)
def from_scratch(monkeypatch):
    for size in ('TINY', 'BASE'):
        monkeypatch.setenv(f'FOCAL_{size}', 'none')


def load(name):
    cfg = Config.fromfile(FOLDER / f'{name}.py')
    init_default_scope(cfg.default_scope)
    return cfg


@pytest.fixture
def build(monkeypatch):
    """Builds a model without memory for its weights."""
    linspace = partial(torch.linspace, device='cpu')  # MMDetection asks for its values
    monkeypatch.setattr(torch, 'linspace', linspace)

    def build(cfg):
        with torch.device('meta'):
            return MODELS.build(cfg.model)

    return build


def test_all_are_here():
    found = {
        path.stem
        for pattern in ('panoptic_fpn_*', 'mask2former_panoptic_*', 'mask2former_instance_*')
        for path in FOLDER.glob(f'{pattern}.py')
    }
    assert found == set(PARAMETERS)


@pytest.mark.parametrize('name', PARAMETERS)
def test_builds(name, build):
    cfg = load(name)
    assert sum(param.numel() for param in build(cfg).parameters()) == PARAMETERS[name]
    head = cfg.model.get('panoptic_head', cfg.model.get('semantic_head'))
    fusion = cfg.model.panoptic_fusion_head
    stuff = 0 if 'instance' in name else STUFF
    for part in (head, fusion):
        assert (part.num_things_classes, part.num_stuff_classes) == (THINGS, stuff)
    if 'panoptic_head' in cfg.model:
        assert head.loss_cls.class_weight == [1.0] * (THINGS + stuff) + [0.1]


@pytest.mark.parametrize('name', REPRESENTATIVES)
def test_representative_trains_a_step_and_predicts(name):
    train_a_step_and_predict(name)


@pytest.mark.configs
@pytest.mark.parametrize('name', PARAMETERS)
def test_trains_a_step_and_predicts(name):
    train_a_step_and_predict(name)


def train_a_step_and_predict(name):
    gc.collect()
    torch.manual_seed(0)
    cfg = load(name)
    cfg.model.backbone.init_cfg = None  # nothing is downloaded
    cfg.model.data_preprocessor.pop('batch_augments', None)  # would pad to 1024 × 1024
    if 'rpn_head' in cfg.model:  # an untrained model is sure of nothing
        cfg.model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=5)
        cfg.model.test_cfg.panoptic.stuff_area_limit = 0
    else:
        cfg.model.test_cfg.update(object_mask_thr=0.0, iou_thr=0.0, filter_low_score=False)
    model = MODELS.build(cfg.model)
    model.init_weights()
    height, width = 64, 96
    shapes = dict.fromkeys(('img_shape', 'ori_shape', 'batch_input_shape'), (height, width))
    sample = DetDataSample(metainfo=dict(shapes, scale_factor=(1.0, 1.0)))
    masks = np.zeros((2, height, width), dtype=np.uint8)
    masks[0, 8:28, 8:40] = masks[1, 30:60, 50:90] = 1
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[8.0, 8.0, 40.0, 28.0], [50.0, 30.0, 90.0, 60.0]]),
        labels=torch.tensor([1, 79]),
        masks=BitmapMasks(masks, height, width),
    )
    if 'instance' not in name:
        segments = torch.full((1, height, width), THINGS + 20)
        segments[0, :5] = 255
        segments[0, masks[0] > 0], segments[0, masks[1] > 0] = 1, 79
        sample.gt_sem_seg = PixelData(sem_seg=segments)
    data = dict(inputs=[torch.randint(0, 255, (3, height, width), dtype=torch.uint8)], data_samples=[sample])

    unreached = {name for name, param in model.named_parameters() if param.requires_grad}
    for param_name, param in model.named_parameters():
        if param.requires_grad:
            param.register_post_accumulate_grad_hook(lambda _, name=param_name: unreached.discard(name))
    losses = model.train().train_step(data, build_optim_wrapper(model, cfg.optim_wrapper))
    assert all(value.isfinite() for value in losses.values()) and losses['loss'] > 0
    assert not unreached, 'distributed training stops at parameters that the loss does not depend on'

    with torch.no_grad():
        if 'panoptic_head' in cfg.model:
            head = model.panoptic_head
            head.cls_embed.bias[-1] = -100.0  # of no object
            head.mask_embed[-1].bias.fill_(1.0)
            head.pixel_decoder.mask_feature.bias.fill_(10.0)
        predicted = model.eval().test_step(data)[0]
    assert ('pred_panoptic_seg' in predicted) == ('instance' not in name)
    if 'pred_panoptic_seg' in predicted:
        segments = predicted.pred_panoptic_seg.sem_seg
        assert segments.shape == (1, height, width)
        labels = segments % INSTANCE_OFFSET
        assert (labels <= VOID).all() and (labels < VOID).any()
    assert ('pred_instances' in predicted) == ('mask2former' in name)
    if 'pred_instances' in predicted:
        instances = predicted.pred_instances
        assert instances.masks.shape == (len(instances), height, width) and (instances.labels < THINGS).all()


@pytest.mark.parametrize('name', [name for name in PARAMETERS if 'mask2former' in name])
def test_mask2former_recipe(name, build):
    cfg = load(name)
    wrapper = cfg.optim_wrapper
    assert cfg.train_cfg.max_epochs == 50 and [part.milestones for part in cfg.param_scheduler] == [[45, 48]]
    assert cfg.train_dataloader.batch_size == 2 and cfg.auto_scale_lr.base_batch_size == 16
    assert wrapper.optimizer == dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05)
    assert wrapper.clip_grad.max_norm == 0.01
    (pad,) = cfg.model.data_preprocessor.batch_augments
    _, _, _, resize, crop, *_ = pipeline = cfg.train_dataloader.dataset.pipeline
    assert pad['size'] == resize.scale == crop.crop_size == (1024, 1024) and resize.ratio_range == (0.1, 2.0)
    assert pipeline[1].type == ('LoadAnnotations' if 'instance' in name else 'LoadPanopticAnnotations')
    assert cfg.model.backbone.get('drop_path_rate') == (None if '_r50_' in name else 0.3)

    model = build(cfg)
    norms = (torch.nn.LayerNorm, torch.nn.GroupNorm)
    undecayed = {
        f'{path}.{param}'
        for path, layer in model.named_modules()
        if isinstance(layer, norms)
        for param, _ in layer.named_parameters()
    }
    undecayed |= {param for param, _ in model.named_parameters() if 'bias_table' in param}
    undecayed |= {f'panoptic_head.{table}.weight' for table in ('query_embed', 'query_feat', 'level_embed')}
    names = {id(param): name for name, param in model.named_parameters()}
    for group in build_optim_wrapper(model, wrapper).optimizer.param_groups:
        for param in group['params']:
            of_backbone = names[id(param)].startswith('backbone.')
            assert group['lr'] == pytest.approx(1e-5 if of_backbone else 1e-4), names[id(param)]
            assert group['weight_decay'] == (0.0 if names[id(param)] in undecayed else 0.05), names[id(param)]


def test_backbone_of_mask2former_r50_is_trained_whole():
    backbone = load('mask2former_panoptic_r50_50e').model.backbone
    assert backbone.frozen_stages == -1 and not backbone.norm_cfg.requires_grad


@pytest.mark.parametrize('name', [name for name in PARAMETERS if 'panoptic_fpn' in name])
def test_panoptic_fpn_recipe(name):
    cfg = load(name)
    mask_rcnn = load(name.replace('panoptic_fpn', 'mask_rcnn'))
    for key in ('train_cfg', 'param_scheduler', 'optim_wrapper', 'backbone'):
        assert cfg[key] == mask_rcnn[key]
    for key in ('backbone', 'neck', 'rpn_head', 'roi_head', 'train_cfg'):
        assert cfg.model[key] == mask_rcnn.model[key]
    assert cfg.model.data_preprocessor == dict(mask_rcnn.model.data_preprocessor, pad_seg=True)


@pytest.mark.parametrize('name', PARAMETERS)
def test_data_and_evaluation(name, monkeypatch):
    monkeypatch.setenv('COCO_ROOT', '/somewhere/coco')
    cfg = load(name)
    kind = 'instances' if 'instance' in name else 'panoptic'
    for split, year in (('train', 'train2017'), ('val', 'val2017'), ('test', 'val2017')):
        dataset = cfg[f'{split}_dataloader'].dataset
        assert (dataset.data_root, dataset.ann_file) == ('/somewhere/coco', f'annotations/{kind}_{year}.json')
        assert dataset.data_prefix.img == f'{year}/'
        segments = None if kind == 'instances' else f'annotations/panoptic_{year}/'
        assert dataset.data_prefix.get('seg') == segments
    evaluators = cfg.val_evaluator if isinstance(cfg.val_evaluator, list) else [cfg.val_evaluator]
    assert cfg.test_evaluator == cfg.val_evaluator
    metrics = {evaluator.type: evaluator.ann_file for evaluator in evaluators}
    expected = {}
    if kind == 'panoptic':
        expected['CheckedCocoPanopticMetric'] = '/somewhere/coco/annotations/panoptic_val2017.json'
        assert evaluators[0].seg_prefix == '/somewhere/coco/annotations/panoptic_val2017/'
    if 'mask2former' in name:
        expected['CheckedCocoMetric'] = '/somewhere/coco/annotations/instances_val2017.json'
        assert evaluators[-1].metric == ['bbox', 'segm']
    assert metrics == expected
    best = 'coco/bbox_mAP' if kind == 'instances' else 'coco_panoptic/PQ'
    assert cfg.default_hooks.checkpoint.save_best == best
    assert 'CheckClassesHook' in [hook.type for hook in cfg.default_hooks.values()]
