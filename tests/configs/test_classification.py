"""Every classifier of configs/ is built, trains a step and predicts; the recipe is the released code's."""

import gc
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

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
