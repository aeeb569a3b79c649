"""The segmentation configs have the numbers of Swin's ADE20K recipe and of MMSegmentation's own configs."""

from functools import partial
from pathlib import Path

import mmseg
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

import mmfocal.registration  # noqa: F401
from mmfocal.benchmark.paper.tables import paper_rows
from mmfocal.datasets.shapes import LABEL_NAMES

FOLDER, THEIRS = Path(__file__).parents[2] / 'configs', Path(mmseg.__file__).parent / '.mim/configs'
ROWS = [row['config'] for row in paper_rows('segmentation')]
SWIN = [f'upernet_swin_{size}_160k_ade20k' for size in ('tiny', 'small', 'base')]
CITYSCAPES = [f'upernet_focal_{size}_80k_cityscapes' for size in ('tiny', 'base')]
OTHERS = [
    f'{method}_focal_{size}_{schedule}_ade20k'
    for size in ('tiny', 'base')
    for method, schedule in (('semantic_fpn', '80k'), ('segformer', '160k'), ('mask2former', '160k'))
]
NAMES = [*ROWS, *SWIN, 'upernet_r50_160k_ade20k', *OTHERS, *CITYSCAPES]
SAME = {
    name: f'swin/{name.split("_")[1]}-{name.split("_")[2]}-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512'
    for name in SWIN
}
SAME['upernet_r50_160k_ade20k'] = 'upernet/upernet_r50_4xb4-160k_ade20k-512x512'


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    for size in ('TINY', 'SMALL', 'BASE', 'LARGE'):
        monkeypatch.setenv(f'FOCAL_{size}', 'weights.pth')
    monkeypatch.setattr(torch, 'linspace', partial(torch.linspace, device='cpu'))  # drop path's rates


def load(name):
    return Config.fromfile(FOLDER / f'{name}.py')


def theirs(name):
    return Config.fromfile(THEIRS / f'{name}.py')


def build(cfg):
    """A model without memory for its weights."""
    init_default_scope('mmseg')
    with torch.device('meta'):
        return MODELS.build(cfg.model)


def shapes(module):
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def rates(cfg):
    """Learning rate and weight decay of each parameter."""
    model = build(cfg)
    names = {id(param): name for name, param in model.named_parameters()}
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    return model, {
        names[id(param)]: (group['lr'], group['weight_decay']) for group in groups for param in group['params']
    }


def test_every_row_has_a_config():
    assert [name for name in NAMES if not (FOLDER / f'{name}.py').is_file()] == []
    assert ROWS == [f'upernet_focal_{size}_160k_ade20k' for size in ('tiny', 'small', 'base', 'large')]


@pytest.mark.parametrize('name', NAMES)
def test_schedule(name):
    cfg = load(name)
    iterations = int(name.split('_')[-2].removesuffix('k')) * 1000
    *warmup, decay = cfg.param_scheduler
    assert cfg.train_cfg == dict(type='ResumableIterLoop', max_iters=iterations, val_interval=iterations // 10)
    assert decay.end == iterations and not decay.by_epoch
    assert cfg.train_dataloader.sampler.type == 'InfiniteSampler'
    assert cfg.train_dataloader.batch_size == 2 and cfg.auto_scale_lr.base_batch_size == 16  # on 8 GPUs
    if name.startswith(('upernet_focal', 'upernet_swin', 'segformer')):
        assert (decay.power, decay.eta_min, decay.begin) == (1.0, 0.0, 1500)
        assert [(part.start_factor, part.begin, part.end, part.by_epoch) for part in warmup] == [(1e-6, 0, 1500, False)]
        assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01)
    else:
        assert (decay.power, decay.begin, warmup) == (0.9, 0, [])
    if name.startswith('semantic_fpn'):
        assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-4)


@pytest.mark.parametrize('name', [name for name in NAMES if 'focal' in name or 'swin' in name])
def test_backbone(name):
    backbone, size = load(name).model.backbone, name.split('_')[-3]
    assert backbone.drop_path_rate == 0.3  # Swin's for all sizes
    if 'focal' in name:
        assert (backbone.type, backbone.arch, backbone.border) == ('FocalTransformer', size, 'mask')
        assert backbone.init_cfg == dict(type='Pretrained', checkpoint='weights.pth')


@pytest.mark.parametrize('name', SAME)
def test_swin_and_resnet_are_mmsegmentations(name):
    ours, other = load(name), theirs(SAME[name])
    assert shapes(build(ours)) == shapes(build(other))
    for key in ('decode_head', 'auxiliary_head'):
        assert ours.model[key] == other.model[key]
    weights = other.model.backbone.get('init_cfg')
    assert (
        ours.model.backbone.init_cfg == weights
        if weights
        else ours.model.backbone.init_cfg.checkpoint.endswith('/resnet50_v1c-2cccc1ad.pth')
    )
    assert [part.to_dict() for part in ours.param_scheduler] == [part.to_dict() for part in other.param_scheduler]
    assert ours.optim_wrapper.optimizer == other.optim_wrapper.optimizer
    if name in SWIN:
        assert rates(ours)[1] == rates(other)[1]


@pytest.mark.parametrize(
    'name, other',
    [
        ('mask2former_focal_tiny_160k_ade20k', 'mask2former/mask2former_swin-t_8xb2-160k_ade20k-512x512'),
        ('semantic_fpn_focal_tiny_80k_ade20k', 'sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512'),
        ('upernet_focal_tiny_80k_cityscapes', 'upernet/upernet_r50_4xb2-80k_cityscapes-512x1024'),
    ],
)
def test_heads_are_mmsegmentations(name, other):
    ours, other = load(name), theirs(other)
    channels = ours.model.decode_head.in_channels
    if name.startswith('upernet'):
        other.model.decode_head.in_channels = channels
    assert shapes(build(ours).decode_head) == shapes(build(other).decode_head)
    for key in ('loss_decode', 'num_classes', 'num_queries', 'feature_strides'):
        assert ours.model.decode_head.get(key) == other.model.decode_head.get(key)
    for key in ('mean', 'std', 'bgr_to_rgb', 'size', 'seg_pad_val', 'test_cfg'):
        assert ours.model.data_preprocessor.get(key) == other.model.data_preprocessor.get(key)
    if name.startswith('mask2former'):
        assert ours.train_dataloader.dataset.pipeline[2:] == other.train_dataloader.dataset.pipeline[2:]
        assert ours.model.decode_head.train_cfg == other.model.decode_head.train_cfg
        for loss in ('loss_cls', 'loss_mask', 'loss_dice'):
            built = [MODELS.build(cfg.model.decode_head[loss]) for cfg in (ours, other)]
            assert vars(built[0]) == vars(built[1])


@pytest.mark.parametrize(
    'name', ['upernet_focal_tiny_160k_ade20k', 'segformer_focal_tiny_160k_ade20k', 'mask2former_focal_tiny_160k_ade20k']
)
def test_what_decays_and_how_fast_it_learns(name):
    cfg = load(name)
    model, groups = rates(cfg)
    mask2former, base = name.startswith('mask2former'), cfg.optim_wrapper.optimizer
    norms = (
        (torch.nn.LayerNorm, torch.nn.GroupNorm) if mask2former else torch.nn.LayerNorm
    )  # and BN in the heads decays, as Swin's
    free = {
        f'{path}.{param}'
        for path, layer in model.named_modules()
        if isinstance(layer, norms)
        for param, _ in layer.named_parameters()
    }
    free |= {param for param in groups if 'bias_table' in param}
    free |= {f'decode_head.{table}.weight' for table in ('query_embed', 'query_feat', 'level_embed') if mask2former}
    factors = dict(mask2former=dict(backbone=0.1), segformer=dict(decode_head=10.0)).get(name.split('_')[0], {})
    assert len(groups) == len(list(model.parameters())) and free <= groups.keys()
    for param, (lr, decay) in groups.items():
        assert lr == pytest.approx(base.lr * factors.get(param.split('.')[0], 1.0)), param
        assert decay == (0.0 if param in free else base.weight_decay), param
    if mask2former:
        assert (base.lr, base.weight_decay, cfg.optim_wrapper.clip_grad.max_norm) == (1e-4, 0.05, 0.01)


@pytest.mark.parametrize('name', NAMES)
def test_data(name, monkeypatch):
    monkeypatch.setenv('ADE20K_ROOT', '/somewhere/ade')
    monkeypatch.setenv('CITYSCAPES_ROOT', '/somewhere/city')
    cfg = load(name)
    city, large = name.endswith('cityscapes'), 'large' in name
    size, crop = (
        ((2048, 1024), (512, 1024)) if city else ((2560, 640), (640, 640)) if large else ((2048, 512), (512, 512))
    )
    root, kind = ('/somewhere/city', 'CheckedCityscapesDataset') if city else ('/somewhere/ade', 'CheckedADE20KDataset')
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        assert (dataset.type, dataset.data_root) == (kind, root)
        assert (
            dataset.data_prefix
            == theirs(f'_base_/datasets/{"cityscapes" if city else "ade20k"}')[
                f'{split}_dataloader'
            ].dataset.data_prefix
        )
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert (
        steps['RandomCrop'].crop_size == cfg.model.data_preprocessor.size == crop
        and steps['RandomCrop'].cat_max_ratio == 0.75
    )
    if not name.startswith('mask2former'):
        assert (steps['RandomResize'].scale, steps['RandomResize'].ratio_range) == (size, (0.5, 2.0))
    assert [step.scale for step in cfg.test_dataloader.dataset.pipeline if step.type == 'Resize'] == [size]
    resizes, flips, *_ = cfg.tta_pipeline[1].transforms
    assert [(resize.scale[0] / size[0], resize.scale[1] / size[1]) for resize in resizes] == [
        (r, r) for r in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    ]
    assert [flip.prob for flip in flips] == [0.0, 1.0] and cfg.tta_model.type == 'SegTTAModel'
    assert cfg.model.test_cfg == (dict(mode='slide', crop_size=crop, stride=(341, 683)) if city else dict(mode='whole'))
    assert (
        cfg.model.decode_head.num_classes
        == cfg.model.get('auxiliary_head', cfg.model.decode_head).num_classes
        == (19 if city else 150)
    )


@pytest.mark.parametrize('name', ['upernet_focal_nano_shapes', 'semantic_fpn_focal_nano_shapes'])
def test_nano(name, monkeypatch):
    monkeypatch.setenv('SHAPES_ROOT', '/somewhere/shapes')
    cfg = load(name)
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        assert dataset.data_root == '/somewhere/shapes' and dataset.metainfo.classes == tuple(LABEL_NAMES)
    heads = [cfg.model[key] for key in ('decode_head', 'auxiliary_head') if key in cfg.model]
    assert {head.num_classes for head in heads} == {
        len(LABEL_NAMES)
    } and cfg.train_cfg.val_interval == cfg.train_cfg.max_iters


def test_hooks():
    cfg = load('upernet_focal_tiny_160k_ade20k')
    assert {'HostMemoryHook', 'DivergenceHook', 'BadDataHook', 'CheckClassesHook'} <= {
        hook.type for hook in cfg.default_hooks.values()
    }
    assert not cfg.default_hooks.checkpoint.by_epoch and cfg.default_hooks.checkpoint.save_best == 'mIoU'
    assert not cfg.log_processor.by_epoch and not cfg.default_hooks.logger.log_metric_by_epoch
