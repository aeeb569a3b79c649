"""What the configs of the paper's tables set: the numbers of the Focal and Swin papers and of MMDetection."""

from collections import defaultdict
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

import mmfocal.registration  # noqa: F401
from mmfocal.benchmark.paper.tables import paper_rows

FOLDER = Path(__file__).parents[2] / 'configs'
ROWS = {row['config']: row for row in paper_rows('detection') if row['table'] in (3, 4, 5)}
BEYOND = [
    f'{method}_focal_{size}_3x' for method in ('cascade_mask_rcnn', 'atss', 'sparse_rcnn') for size in ('small', 'base')
]
ADAMW = dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05)
DROP_PATHS = {  # 1x, 3x
    'focal_tiny': (0.2, 0.3),
    'focal_small': (0.2, 0.5),
    'focal_base': (0.3, 0.5),
    'swin_tiny': (0.1, 0.2),
    'swin_small': (0.2, 0.2),
    'swin_base': (0.3, 0.3),
}
VIL_DROP_PATHS = {  # RetinaNet 1x, 3x, Mask R-CNN 1x, 3x
    'vil_small': (0.1, 0.2, 0.2, 0.2),
    'vil_medium': (0.2, 0.3, 0.2, 0.3),
    'vil_base': (0.3, 0.3, 0.3, 0.3),
}


@pytest.fixture(autouse=True)
def no_weights(monkeypatch):
    for size in ('TINY', 'SMALL', 'BASE', 'LARGE'):
        monkeypatch.delenv(f'FOCAL_{size}', raising=False)


def load(name):
    return Config.fromfile(FOLDER / f'{name}.py')


def test_all_rows_have_a_config():
    names = [
        *ROWS,
        *BEYOND,
        'atss_dyhead_focal_large_3x',
        'htc_focal_large_3x',
        'dino_focal_tiny_1x',
        'dino_focal_large_3x',
    ]
    assert [name for name in names if not (FOLDER / f'{name}.py').is_file()] == []
    assert len(ROWS) == 2 * 2 * 16 + 4 * 3  # Tables 3 and 4, Table 5
    assert [row['config'] for row in paper_rows() if not (FOLDER / f'{row["config"]}.py').is_file()] == []


@pytest.mark.parametrize('name', [*ROWS, *BEYOND])
def test_schedule_and_data(name):
    cfg = load(name)
    schedule = name[-2:]
    epochs, steps = (12, [8, 11]) if schedule == '1x' else (36, [24, 32] if '_vil_' in name else [27, 33])
    warmup, decay = cfg.param_scheduler
    assert cfg.train_cfg.max_epochs == decay.end == epochs and decay.milestones == steps and decay.gamma == 0.1
    assert not warmup.by_epoch and warmup.start_factor == (0.01 if '_vil_' in name else 0.001)
    assert cfg.train_dataloader.batch_size == 2 and cfg.auto_scale_lr.base_batch_size == 16  # on 8 GPUs
    pipeline = cfg.train_dataloader.dataset.pipeline
    if schedule == '1x':
        assert [(step.scale, step.keep_ratio) for step in pipeline if step.type == 'Resize'] == [((1333, 800), True)]
    elif '_vil_' in name:
        assert pipeline[2].scales == [(1333, side) for side in range(640, 801, 32)] and len(pipeline) == 5
    else:
        whole, cropped = pipeline[3].transforms
        sides = [(1333, side) for side in range(480, 801, 32)]
        assert [step.type for step in cropped] == ['RandomChoiceResize', 'RandomCrop', 'RandomChoiceResize']
        assert whole[0].scales == cropped[2].scales == sides and cropped[1].crop_size == (384, 600)
    masks = 'mask_rcnn' in name
    for split in ('train', 'val', 'test'):
        loaders = [step for step in cfg[f'{split}_dataloader'].dataset.pipeline if step.type == 'LoadAnnotations']
        assert [bool(loader.get('with_mask')) for loader in loaders] == [masks]
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        assert evaluator.metric == (['bbox', 'segm'] if masks else 'bbox')


@pytest.mark.parametrize('name', [*ROWS, *BEYOND])
def test_optimizer(name):
    wrapper = load(name).optim_wrapper.to_dict()
    optimizer, clip_grad = ADAMW, None
    paramwise_cfg = dict(norm_decay_mult=0.0, custom_keys=dict(bias_table=dict(decay_mult=0.0)))
    if name.startswith('sparse_rcnn'):
        optimizer = dict(ADAMW, lr=2.5e-5, weight_decay=1e-4)
        clip_grad = dict(max_norm=1, norm_type=2)
    elif '_pvt_' in name:
        optimizer, paramwise_cfg = dict(type='AdamW', lr=1e-4, weight_decay=1e-4), None
    elif '_vil_' in name:
        optimizer, paramwise_cfg = dict(type='AdamW', lr=1e-4, weight_decay=0.05), None
        clip_grad = dict(max_norm=1.0 if name.startswith('retinanet') else 0.5)
    elif name.endswith('1x') and ('_r50_' in name or '101_' in name):
        lr = 0.01 if name.startswith('retinanet') else 0.02
        optimizer, paramwise_cfg = dict(type='SGD', lr=lr, momentum=0.9, weight_decay=1e-4), None
    if name.startswith('reppointsv2'):
        clip_grad = dict(max_norm=35, norm_type=2)
    assert wrapper['optimizer'] == optimizer
    assert wrapper.get('paramwise_cfg') == paramwise_cfg and wrapper.get('clip_grad') == clip_grad


@pytest.mark.parametrize('name', [name for name in [*ROWS, *BEYOND] if '_focal_' in name or '_swin_' in name])
def test_backbone(name, monkeypatch):
    family, size = name.split('_')[-3:-1]
    monkeypatch.setenv(f'FOCAL_{size.upper()}', 'weights.pth')
    backbone = load(name).model.backbone
    assert backbone.drop_path_rate == DROP_PATHS[f'{family}_{size}'][name.endswith('3x')]
    if family == 'focal':
        assert (backbone.type, backbone.arch, backbone.border) == ('FocalTransformer', size, 'mask')
        assert backbone.init_cfg == dict(type='Pretrained', checkpoint='weights.pth')
    else:
        assert backbone.init_cfg.checkpoint.endswith(f'/swin_{size}_patch4_window7_224.pth')


@pytest.mark.parametrize('name', [name for name in ROWS if '_vil_' in name])
def test_vil_backbone(name, monkeypatch):
    size, schedule = name.split('_')[-2:]
    monkeypatch.setenv(f'VIL_{size.upper()}', 'weights.pth')
    backbone = load(name).model.backbone
    place = 2 * name.startswith('mask_rcnn') + (schedule == '3x')
    assert backbone.drop_path_rate == VIL_DROP_PATHS[f'vil_{size}'][place]
    assert (backbone.type, backbone.arch, backbone.positions) == ('VisionLongformer', size, 'absolute')
    assert backbone.img_size == 1333 and backbone.init_cfg == dict(type='Pretrained', checkpoint='weights.pth')


def test_a_detectors_configs_differ_in_the_backbone_only():
    groups = defaultdict(dict)
    for name, row in ROWS.items():
        # ResNets in 1x, PVT and ViL have recipes of their own.
        family = (
            row['backbone'][:3]
            if row['backbone'][:3] in ('PVT', 'ViL')
            else 'ResNet'
            if 'Res' in row['backbone'] and row['schedule'] == '1x'
            else ''
        )
        cfg = load(name).to_dict()
        for key in ('backbone', 'channels', 'drop_path'):  # what the backbone's base gives the config
            cfg.pop(key, None)
        backbone, channels = cfg['model'].pop('backbone'), cfg['model']['neck'].pop('in_channels')
        assert len(channels) == len(backbone.get('out_indices', range(4)))
        groups[row['method'], row['schedule'], family][name] = cfg
    for group in groups.values():
        first, *others = group.values()
        assert all(cfg == first for cfg in others), list(group)
    assert len(groups) == 2 * (4 + 3) + 4


@pytest.mark.parametrize(
    'name',
    [
        'retinanet_swin_small_1x',
        'mask_rcnn_focal_base_3x',
        'cascade_mask_rcnn_focal_tiny_3x',
        'sparse_rcnn_focal_tiny_3x',
    ],
)
def test_norms_and_position_tables_do_not_decay(name):
    cfg = load(name)
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model)
    norms = (torch.nn.LayerNorm, torch.nn.GroupNorm, torch.nn.modules.batchnorm._BatchNorm)
    expected = {
        f'{module}.{param}'
        for module, layer in model.named_modules()
        if isinstance(layer, norms)
        for param, _ in layer.named_parameters()
    }
    expected |= {param for param, _ in model.named_parameters() if 'bias_table' in param}
    names = {id(param): name for name, param in model.named_parameters()}
    undecayed = {
        names[id(group['params'][0])]
        for group in build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
        if not group['weight_decay']
    }
    assert undecayed == expected and any('bias_table' in param for param in undecayed)


def test_cascade_box_heads():
    heads = load('cascade_mask_rcnn_r50_3x').model.roi_head.bbox_head
    assert [head.bbox_coder.target_stds for head in heads] == [
        [0.1, 0.1, 0.2, 0.2],
        [0.05, 0.05, 0.1, 0.1],
        [0.033, 0.033, 0.067, 0.067],
    ]
    for head in heads:
        assert (head.num_shared_convs, head.num_shared_fcs, head.norm_cfg.type, head.loss_bbox.type) == (
            4,
            1,
            'SyncBN',
            'GIoULoss',
        )
        assert head.reg_decoded_bbox, 'GIoU is of boxes'


def test_sparse_rcnn_has_300_proposals():
    model = load('sparse_rcnn_focal_tiny_3x').model
    assert model.rpn_head.num_proposals == model.test_cfg.rcnn.max_per_img == 300 and len(model.roi_head.bbox_head) == 6


@pytest.mark.parametrize(
    'name, epochs, steps, levels', [('dino_focal_tiny_1x', 12, [11], 4), ('dino_focal_large_3x', 36, [27, 33], 5)]
)
def test_dino(name, epochs, steps, levels):
    cfg = load(name)
    assert cfg.train_cfg.max_epochs == epochs and [part.milestones for part in cfg.param_scheduler] == [steps]
    assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=1e-4, weight_decay=1e-4)
    assert cfg.optim_wrapper.paramwise_cfg.custom_keys == dict(backbone=dict(lr_mult=0.1))
    assert cfg.optim_wrapper.clip_grad.max_norm == 0.1 and not cfg.train_dataloader.dataset.filter_cfg.filter_empty_gt
    model = cfg.model
    assert model.num_feature_levels == model.neck.num_outs == levels
    assert (
        model.encoder.layer_cfg.self_attn_cfg.num_levels == model.decoder.layer_cfg.cross_attn_cfg.num_levels == levels
    )
