"""Every config of configs/ is built, trains a step and predicts; none is forgotten."""

import gc
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine import load
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

import mmfocal.registration  # noqa: F401
from mmfocal.benchmark.paper.tables import row_of
from mmfocal.errors import ConfigError

ALL = sorted((Path(__file__).parents[2] / 'configs').glob('*.py'))
CLASSIFIERS = [  # test_classifier_configs.py has these
    path for path in ALL if re.fullmatch(r'.+_imagenet|[a-z]+_nano_shapes', path.stem)
]
CONFIGS = [path for path in ALL if path not in CLASSIFIERS]
METADATA = {model['Name']: model['Metadata'] for model in load(CONFIGS[0].parent / 'metafile.yml')['Models']}
NAME = re.compile(
    r'(?P<method>\w+?)_(?P<family>r|x|pvt|vil|swin|focal)(\d+|101_\d+x4d|_tiny|_small|_medium|_base|_large|_nano)'
    r'(?:_conv|_swin_init|_window14|_(?:no_)?shift|_depths22[24]2|_window_only|_local|_global)?_(1x|3x|50e|shapes|(80k|160k)_(?P<data>ade20k|cityscapes))'
)
PANOPTIC = {'panoptic_fpn', 'mask2former_panoptic', 'mask2former_instance'}  # test_panoptic_configs.py trains these
# Each method that is not for Focal-L alone, and each family of backbones in either library: `make test` trains these,
# `make test-configs` all.
REPRESENTATIVES = [
    'atss_focal_tiny_3x',
    'atss_focal_tiny_swin_init_1x',
    'cascade_mask_rcnn_r50_3x',
    'dino_focal_tiny_1x',
    'mask_rcnn_swin_tiny_3x',
    'reppointsv2_focal_tiny_3x',
    'retinanet_pvt_small_1x',
    'retinanet_vil_small_1x',
    'retinanet_x101_32x4d_1x',
    'sparse_rcnn_focal_tiny_3x',
    'mask2former_focal_tiny_160k_ade20k',
    'segformer_focal_tiny_160k_ade20k',
    'semantic_fpn_focal_tiny_80k_ade20k',
    'upernet_focal_tiny_80k_cityscapes',
    'upernet_r50_160k_ade20k',
    'upernet_swin_tiny_160k_ade20k',
]


@pytest.fixture(autouse=True)
def from_scratch(monkeypatch):
    for variable in (
        *(f'FOCAL_{size}' for size in ('TINY', 'SMALL', 'BASE', 'LARGE')),
        'VIL_SMALL',
        'VIL_MEDIUM',
        'VIL_BASE',
    ):
        monkeypatch.setenv(variable, 'none')


def test_names_and_representatives():
    names = [NAME.fullmatch(path.stem) for path in CONFIGS]
    assert all(names), (
        f'{[path.stem for path, name in zip(CONFIGS, names) if not name]}: no <method>_<backbone>_<size>_<schedule>'
    )
    trained = [NAME.fullmatch(name) for name in REPRESENTATIVES]
    names = [name for name in names if name['method'] not in PANOPTIC]
    assert {name['method'] for name in trained} == {name['method'] for name in names if name[3] != '_large'}
    assert {(name['family'], bool(name['data'])) for name in trained} == {
        (name['family'], bool(name['data'])) for name in names
    }


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_builds_with_as_many_parameters_as_the_paper_has(path, monkeypatch):
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    monkeypatch.setattr(torch, 'linspace', partial(torch.linspace, device='cpu'))  # MMDetection asks for its values
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    params = sum(param.numel() for param in model.parameters())
    assert params == METADATA[path.stem]['Parameters'], (
        'count it with tools/benchmark.py complexity, then run dev/model_zoo.py'
    )
    row = row_of(path.stem) or {}
    if 'params_m' in row and row['method'] != 'RepPointsV2':  # docs/models/reppoints_v2.md says why
        head = 769_000 if row['backbone'].startswith('ViL') else 0  # the paper's ViL rows count a classifier's head
        assert (params + head) / 1e6 == pytest.approx(row['params_m'], rel=0.015)


@pytest.mark.parametrize('name', REPRESENTATIVES)
def test_representative_trains_a_step_and_predicts(name):
    train_a_step_and_predict(CONFIGS[0].with_name(f'{name}.py'))


@pytest.mark.configs
@pytest.mark.parametrize(
    'path',
    [path for path in CONFIGS if NAME.fullmatch(path.stem)['method'] not in PANOPTIC],
    ids=lambda path: path.stem,
)
def test_trains_a_step_and_predicts(path):
    train_a_step_and_predict(path)


def train_a_step_and_predict(path):
    gc.collect()  # the model before has cycles, and there is not room for many of the large ones
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.init_cfg = None  # nothing is downloaded
    data = label_maps(cfg) if cfg.default_scope == 'mmseg' else boxes(cfg)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    model.init_weights()

    unreached = {name for name, param in model.named_parameters() if param.requires_grad}
    for name, param in model.named_parameters():
        if param.requires_grad:
            param.register_post_accumulate_grad_hook(lambda _, name=name: unreached.discard(name))
    losses = model.train().train_step(data, build_optim_wrapper(model, cfg.optim_wrapper))
    assert all(value.isfinite() for value in losses.values()) and losses['loss'] > 0
    assert not unreached, 'distributed training stops at parameters that the loss does not depend on'

    with torch.no_grad():
        predicted = model.eval().test_step(data)[0]
    height, width = data['data_samples'][0].ori_shape
    if cfg.default_scope == 'mmseg':
        assert predicted.seg_logits.data.shape == (cfg.model.decode_head.num_classes, height, width)
        assert torch.equal(predicted.pred_sem_seg.data[0], predicted.seg_logits.data.argmax(0))
        return
    predicted = predicted.pred_instances
    assert predicted.bboxes.shape == (len(predicted), 4)
    assert ('segm' in cfg.val_evaluator.metric) == ('masks' in predicted)
    if 'masks' in predicted:
        assert predicted.masks.shape == (len(predicted), height, width)


def boxes(cfg):
    """An image with one object for a detector."""
    height, width = (224, 224) if cfg.model.type == 'DINO' else (32, 64)  # DINO needs 900 positions
    sample = DetDataSample(
        metainfo=dict(
            img_shape=(height, width),
            ori_shape=(height, width),
            scale_factor=(1.0, 1.0),
            batch_input_shape=(height, width),
        )
    )
    masks = np.zeros((1, height, width), dtype=np.uint8)
    masks[:, 8:28, 8:40] = 1
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[8.0, 8.0, 40.0, 28.0]]), labels=torch.tensor([1]), masks=BitmapMasks(masks, height, width)
    )
    return dict(inputs=[torch.randint(0, 255, (3, height, width), dtype=torch.uint8)], data_samples=[sample])


def label_maps(cfg):
    """Two images of two classes and of unlabelled pixels: BN needs two where UPerNet pools a whole map."""
    cfg.model.data_preprocessor.size = (64, 64)  # training images are padded to it
    samples = []
    for _ in range(2):
        sample = SegDataSample(metainfo=dict(img_shape=(64, 64), ori_shape=(50, 70)))
        labels = torch.zeros(1, 64, 64, dtype=torch.long)
        labels[:, 8:40, 8:40], labels[:, 50:] = cfg.model.decode_head.num_classes - 1, 255
        sample.gt_sem_seg = PixelData(data=labels)
        samples.append(sample)
    return dict(inputs=[torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8) for _ in range(2)], data_samples=samples)


def test_schedule_and_decay():
    cfg = Config.fromfile(CONFIGS[0].parent / 'atss_focal_tiny_3x.py')
    assert cfg.train_cfg.max_epochs == 36 and cfg.param_scheduler[1].milestones == [27, 33]
    assert cfg.train_dataloader.batch_size == 2 and cfg.auto_scale_lr.base_batch_size == 16
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model)
    names = {id(p): name for name, p in model.named_parameters()}
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    undecayed = set()
    for group in optimizer.param_groups:
        assert group['lr'] == 1e-4 and group['weight_decay'] in (0.0, 0.05)
        if not group['weight_decay']:
            undecayed.update(names[id(p)] for p in group['params'])
    expected = {name for name in names.values() if 'bias_table' in name or '.norm' in name or '.gn.' in name}
    assert undecayed == expected and len(expected) > 100
    drop_paths = [block.drop_path for stage in model.backbone.stages for block in stage.blocks]
    assert drop_paths[0] == 0 and drop_paths[-1] == pytest.approx(0.3)


def test_released_reppointsv2_recipe():
    cfg = Config.fromfile(CONFIGS[0].parent / 'reppointsv2_r50_1x.py')
    wrapper = cfg.optim_wrapper.to_dict()
    assert wrapper.pop('optimizer') == dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4)
    assert wrapper == dict(type='OptimWrapper', clip_grad=dict(max_norm=35, norm_type=2))
    warmup, steps = cfg.param_scheduler
    assert cfg.train_cfg.max_epochs == 12 and steps.milestones == [8, 11] and steps.gamma == 0.1
    assert (warmup.end, warmup.start_factor, warmup.by_epoch) == (500, 0.001, False)
    assert cfg.train_dataloader.batch_size == 2 and cfg.auto_scale_lr.base_batch_size == 16
    head = cfg.model.bbox_head
    assert (head.loss_bbox_init, head.loss_bbox_refine) == (
        dict(type='GIoULoss', loss_weight=1.0),
        dict(type='GIoULoss', loss_weight=2.0),
    )
    assert cfg.model.test_cfg.to_dict() == dict(
        nms_pre=1000, min_bbox_size=0, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.6), max_per_img=100
    )
    # The comment's --cfg-options, with which the losses are the released smooth L1 ones.
    options = dict(
        part.split('=')
        for line in (CONFIGS[0].parent / 'reppointsv2_r50_1x.py').open()
        for part in line.split()
        if part.startswith('model.bbox_head')
    )
    cfg.merge_from_dict({key: value if key.endswith('type') else float(value) for key, value in options.items()})
    init_default_scope(cfg.default_scope)
    losses = MODELS.build(cfg.model.bbox_head.loss_bbox_init), MODELS.build(cfg.model.bbox_head.loss_bbox_refine)
    assert [(loss.beta, loss.loss_weight) for loss in losses] == [(0.11, 0.5), (0.11, 1.0)]


def test_coco_root(monkeypatch):
    monkeypatch.setenv('COCO_ROOT', '/somewhere/coco')
    cfg = Config.fromfile(CONFIGS[0].parent / 'atss_r50_3x.py')
    for split in ('train', 'val', 'test'):
        assert cfg[f'{split}_dataloader'].dataset.data_root == '/somewhere/coco'
    assert cfg.val_evaluator.ann_file == '/somewhere/coco/annotations/instances_val2017.json'
    monkeypatch.delenv('COCO_ROOT')
    assert Config.fromfile(CONFIGS[0].parent / 'atss_r50_3x.py').val_dataloader.dataset.data_root == 'data/coco/'


@pytest.mark.parametrize('name', ['atss_focal_tiny_conv_3x', 'mask_rcnn_focal_tiny_conv_1x'])
def test_conv_embedding(name, monkeypatch):
    monkeypatch.setenv('FOCAL_TINY_CONV', 'weights.pdparams')
    backbone = Config.fromfile(CONFIGS[0].parent / f'{name}.py').model.backbone
    assert backbone.conv_embed and backbone.init_cfg == dict(type='Pretrained', checkpoint='weights.pdparams')
    monkeypatch.delenv('FOCAL_TINY_CONV')
    init_default_scope('mmdet')
    model = MODELS.build(Config.fromfile(CONFIGS[0].parent / f'{name}.py').model.backbone)
    with pytest.raises(ConfigError, match='set the environment variable FOCAL_TINY_CONV to the path'):
        model.init_weights()


@pytest.mark.parametrize('path', sorted(CONFIGS[0].parent.glob('*_swin_init_*.py')), ids=lambda path: path.stem)
def test_a_start_from_swin_needs_no_variable(path):
    """Focal-T and Swin-T name the same file; other sizes one of theirs."""
    backbone = Config.fromfile(path).model.backbone
    swin = Config.fromfile(CONFIGS[0].parent / 'mask_rcnn_swin_tiny_1x.py').model.backbone
    size = re.search('tiny|small|base|large', path.stem)[0]
    assert f'swin_{size}_patch4_window7' in backbone.init_cfg.checkpoint
    assert backbone.init_cfg == swin.init_cfg or size != 'tiny'
    assert (backbone.downsample, backbone.use_shift) == ('merge', True)
