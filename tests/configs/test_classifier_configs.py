"""Every classifier of configs/ is built, trains a step and predicts; the recipe is the released code's."""

import gc
import math
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, TRANSFORMS, init_default_scope
from PIL import Image
from scipy.stats import ks_2samp
from timm.data import Mixup, create_transform
from timm.data.auto_augment import LEVEL_TO_ARG, rand_augment_transform
from timm.data.mixup import mixup_target
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation
from timm.loss import SoftTargetCrossEntropy
from timm.optim import param_groups_weight_decay

import mmfocal.registration  # noqa: F401

CONFIGS = sorted(
    path
    for path in (Path(__file__).parents[2] / 'configs').glob('*.py')
    if re.fullmatch(r'.+_imagenet|[a-z]+_nano_shapes', path.stem)
)
NAME = re.compile(r'(?P<family>focal|swin|pvt|vil|resnet|deit|vit|cvt)_?\w+?_((300|30)e_imagenet|shapes)')
SIZES = dict(focal=64, resnet=64)  # of the images; the others are made for 224 pixels
REPRESENTATIVES = ['focal_tiny_300e_imagenet', 'focal_nano_shapes']


def test_names_and_representatives():
    names = [NAME.fullmatch(path.stem) for path in CONFIGS]
    assert all(names), [path.stem for path, name in zip(CONFIGS, names) if not name]


@pytest.mark.parametrize('name', REPRESENTATIVES)
def test_representative_trains_a_step_and_predicts(name):
    train_a_step_and_predict(CONFIGS[0].with_name(f'{name}.py'))


@pytest.mark.configs
@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_trains_a_step_and_predicts(path):
    train_a_step_and_predict(path)


def train_a_step_and_predict(path):
    """Two images: BN needs them."""
    from mmpretrain.structures import DataSample

    gc.collect()  # the model before has cycles
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.init_cfg = None  # nothing is downloaded
    number, size = cfg.model.head.num_classes, SIZES.get(NAME.fullmatch(path.stem)['family'], 224)
    images = torch.randint(0, 255, (2, 3, size, size), dtype=torch.uint8)
    data = dict(inputs=list(images), data_samples=[DataSample().set_gt_label(i) for i in (0, number - 1)])
    model = MODELS.build(cfg.model)
    model.init_weights()

    unreached = {name for name, param in model.named_parameters() if param.requires_grad}
    for name, param in model.named_parameters():
        param.register_post_accumulate_grad_hook(lambda _, name=name: unreached.discard(name))
    losses = model.train().train_step(data, build_optim_wrapper(model, cfg.optim_wrapper))
    assert losses['loss'].isfinite() and losses['loss'] > 0
    assert not unreached, 'distributed training stops at parameters that the loss does not depend on'

    with torch.no_grad():
        first, _ = model.eval().test_step(data)
    assert first.pred_score.shape == (number,) and first.pred_score.sum() == pytest.approx(1, abs=1e-4)
    assert first.pred_label == first.pred_score.argmax()


def build(name):
    cfg = Config.fromfile(CONFIGS[0].with_name(f'{name}.py'))
    init_default_scope(cfg.default_scope)
    return cfg, MODELS.build(cfg.model)


# The recipe: the released code's, with timm's parts.


@pytest.mark.parametrize('name', ['focal_tiny_conv_300e_imagenet', 'swin_tiny_300e_imagenet'])
def test_parameter_groups_are_timms(name):
    cfg, model = build(name)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    tables = [name for name in names.values() if 'bias_table' in name]
    plain, decayed = param_groups_weight_decay(model, 0.05, no_weight_decay_list=tables)
    expected = {group['weight_decay']: {names[id(p)] for p in group['params']} for group in (plain, decayed)}
    ours = {0.0: set(), 0.05: set()}
    for group in build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups:
        assert group['lr'] == 1e-3 and group['betas'] == (0.9, 0.999) and group['eps'] == 1e-8
        ours[group['weight_decay']] |= {names[id(parameter)] for parameter in group['params']}
    assert ours == expected and len(tables) >= 12
    if 'focal' in name:
        assert {'backbone.stages.0.blocks.0.attn.pool_layers.0.weight'} <= ours[
            0.05
        ]  # (1, 49), as in the released code


def test_schedule_and_drop_path():
    for name, rate in (('tiny', 0.2), ('small', 0.3), ('base', 0.5)):
        for family in ('focal', 'swin'):
            cfg = Config.fromfile(CONFIGS[0].with_name(f'{family}_{name}_300e_imagenet.py'))
            assert cfg.model.backbone.drop_path_rate == rate
            assert cfg.train_cfg.max_epochs == 300 and cfg.optim_wrapper.clip_grad == dict(max_norm=5.0)
            (schedule,) = cfg.param_scheduler
            assert (schedule.warmup, schedule.end) == (20, 300)
            assert cfg.auto_scale_lr.base_batch_size == 1024 == 8 * cfg.train_dataloader.batch_size
    cfg = Config.fromfile(CONFIGS[0].with_name('focal_base_swin_init_30e_imagenet.py'))
    assert (cfg.param_scheduler[0].warmup, cfg.param_scheduler[0].end, cfg.train_cfg.max_epochs) == (2, 30, 30)
    assert cfg.optim_wrapper.optimizer.lr == 2e-4 and cfg.optim_wrapper.optimizer.weight_decay == 0.05


@pytest.fixture(scope='module')
def pipelines():
    """The transforms of training and of testing, by their names."""
    cfg = Config.fromfile(CONFIGS[0].with_name('focal_tiny_300e_imagenet.py'))
    init_default_scope(cfg.default_scope)
    return [
        {one.type: TRANSFORMS.build(one) for one in cfg[f'{split}_dataloader'].dataset.pipeline}
        for split in ('train', 'val')
    ]


def assert_same_distribution(one, other):
    assert ks_2samp(one, other).pvalue > 1e-3, (np.mean(one), np.mean(other))


def test_crops_are_distributed_as_timms(pipelines):
    image = np.zeros((300, 400, 3), np.uint8)
    ours = np.array([pipelines[0]['RandomResizedCrop'].rand_crop_params(image) for _ in range(2000)])
    crop = RandomResizedCropAndInterpolation(224, interpolation='bicubic')
    timms = [crop.get_params(Image.fromarray(image), crop.scale, crop.ratio) for _ in range(2000)]
    for one, other in zip(ours.T, np.array(timms).T):
        assert_same_distribution(one, other)
    assert pipelines[0]['RandomFlip'].prob == 0.5


def test_random_augmentations_are_timms(pipelines):
    augment = pipelines[0]['RandAugment']
    timms = rand_augment_transform('rand-m9-mstd0.5-inc1', dict(translate_pct=0.45))
    assert len(augment.transforms) == len(timms.ops) == 15 and augment.num_policies == timms.num_layers == 2
    for ours, op in zip(augment.transforms, timms.ops):
        assert ours.prob == op.prob == 0.5, op.name
        assert op.magnitude == 9 and op.magnitude_std == 0.5
        level = LEVEL_TO_ARG[op.name]
        if level is None:  # no magnitude
            assert ours.magnitude_range is None
            continue
        assert (ours.magnitude_level, ours.total_level, ours.magnitude_std) == (9, 10, 0.5)
        value = abs(level(9, dict(op.hparams))[0])
        if op.name in ('ColorIncreasing', 'ContrastIncreasing', 'BrightnessIncreasing', 'SharpnessIncreasing'):
            value = abs(value - 1)  # of a factor 1 ± magnitude
        low, high = ours.magnitude_range
        magnitude = low + 0.9 * (high - low)
        if op.name == 'PosterizeIncreasing':
            magnitude = math.ceil(magnitude)  # bits
        assert magnitude == pytest.approx(value, abs=1 if value > 1 else 1e-6), op.name


def test_erasing_is_distributed_as_timms(pipelines):
    ours, timms = [], []
    erase, other = pipelines[0]['RandomErasing'], RandomErasing(0.25, mode='pixel', max_count=1, device='cpu')
    for _ in range(1500):
        image = np.full((32, 32, 3), 200, np.uint8)
        ours.append((erase(dict(img=image))['img'] != 200).any(2).sum())
        timms.append(int((other(torch.full((3, 32, 32), 9.0)) != 9).any(0).sum()))
    assert np.mean(np.array(ours) > 0) == pytest.approx(0.25, abs=0.04)
    assert_same_distribution([area for area in ours if area], [area for area in timms if area])
    black = erase._fill_pixels(np.zeros((200, 200, 3), np.uint8), 0, 0, 200, 200)
    assert black.mean((0, 1)) == pytest.approx([103.53, 116.28, 123.675], abs=2)  # noise of the normalized image


def test_mixtures_and_their_loss_are_timms():
    cfg, model = build('focal_nano_shapes')
    recipe = Config.fromfile(CONFIGS[0].with_name('focal_tiny_300e_imagenet.py')).model
    augment = MODELS.build(dict(recipe.data_preprocessor, batch_augments=recipe.train_cfg)).batch_augments
    mixup = Mixup(
        mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5, mode='batch', label_smoothing=0.1, num_classes=2
    )
    labels, ours, timms = torch.tensor([0, 1]), [], []
    while len(ours) < 500:
        _, scores = augment(torch.zeros(2, 3, 32, 32), torch.eye(2))
        if not torch.equal(scores, torch.eye(2)):  # MMPretrain draws the partners, which may be the image itself
            ours.append(float(scores[0, 0]))
            _, target = mixup(torch.zeros(2, 3, 32, 32), labels)
            timms.append((float(target[0, 0]) - 0.05) / 0.9)
    assert_same_distribution(ours, timms)
    loss = MODELS.build(recipe.head.loss)
    logits, lam = torch.randn(2, 2), 0.3
    scores = lam * torch.eye(2) + (1 - lam) * torch.eye(2).flip(0)
    target = mixup_target(labels, 2, lam=lam, smoothing=0.1)
    torch.testing.assert_close(loss(logits, scores), SoftTargetCrossEntropy()(logits, target))


def test_images_are_tested_as_timms(pipelines):
    """Resize to 256, bicubic with antialiasing, and cut 224 from the middle."""
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 255, (40, 50, 3), np.uint8), (350, 300), interpolation=cv2.INTER_CUBIC)
    results = pipelines[1]['CenterCrop'](pipelines[1]['ResizeEdge'](dict(img=image.copy())))
    timms = create_transform(224, interpolation='bicubic', crop_pct=224 / 256, normalize=False)
    expected = timms(Image.fromarray(image)).numpy().transpose(1, 2, 0)
    assert results['img'].shape == (224, 224, 3)
    assert np.abs(results['img'].astype(int) - expected).mean() < 0.5


def test_released_start():
    """Focal classifiers start as the released code does, except those from Swin's weights."""
    _, model = build('focal_tiny_300e_imagenet')
    attention = model.backbone.stages[1].blocks[1].attn
    (pool,), (pooled,) = attention.pool_layers, attention.pooled_bias_tables
    assert not attention.window_bias_table.any() and not pool.bias.any() and abs(pool.weight.mean()) < 0.01
    for weight, tolerance in ((pooled, 0.2), (attention.ring_bias_table, 0.1), (pool.weight, 0.5)):
        assert weight.detach().std().item() == pytest.approx(0.02, rel=tolerance)
    cfg = Config.fromfile(CONFIGS[0].with_name('focal_small_swin_init_30e_imagenet.py'))
    assert cfg.model.backbone.init == 'mean'
