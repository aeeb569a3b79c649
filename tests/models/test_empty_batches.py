"""Batches of images without objects: losses and gradients stay of the size that they have with objects."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData
from torch.nn.utils import get_total_norm

import mmfocal.registration  # noqa: F401

CONFIGS = Path(__file__).parents[2] / 'configs'
SIZE = (128, 128)


def build(method, **head):
    cfg = Config.fromfile(CONFIGS / f'{method}_focal_nano_shapes.py')
    init_default_scope(cfg.default_scope)
    for one in cfg.model.roi_head.bbox_head if head else ():
        one.update(head)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model.train()


def step(model, number):
    """Returns the losses and the norm of all gradients for two images with so many objects each."""
    torch.manual_seed(1)
    boxes = torch.tensor([[10.0, 10.0, 60.0, 50.0], [30.0, 30.0, 100.0, 100.0]])[:number]
    samples = []
    for _ in range(2):
        sample = DetDataSample(metainfo=dict(img_shape=SIZE, ori_shape=SIZE, scale_factor=(1.0, 1.0)))
        masks = BitmapMasks(np.ones((number, *SIZE), np.uint8), *SIZE)
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.zeros(number, dtype=torch.long), masks=masks)
        samples.append(sample)
    data = dict(inputs=list(torch.randint(256, (2, 3, *SIZE), dtype=torch.uint8)), data_samples=samples)
    model.zero_grad()
    losses = model(**model.data_preprocessor(data, True), mode='loss')
    total, log = model.parse_losses(losses)
    total.backward()
    return log, get_total_norm([weight.grad for weight in model.parameters() if weight.grad is not None])


@pytest.mark.parametrize(
    'method', ['atss', 'retinanet', 'mask_rcnn', 'cascade_mask_rcnn', 'sparse_rcnn', 'reppointsv2']
)
def test_an_empty_batch_does_not_explode(method):
    model = build(method)
    (full, norm), (empty, empty_norm) = step(model, 2), step(model, 0)
    assert all(value.isfinite() for value in empty.values()) and empty_norm.isfinite()
    assert empty['loss'] < 50 * full['loss'] and empty_norm < 50 * norm


def test_mmdetections_own_head_does():
    model = build('sparse_rcnn', type='DIIHead')
    assert step(model, 0)[0]['loss'] > 1e3 * step(model, 2)[0]['loss']


def test_with_objects_nothing_differs():
    ours, theirs = (step(build('sparse_rcnn', type=kind), 2) for kind in ('StableDIIHead', 'DIIHead'))
    assert ours[0].keys() == theirs[0].keys()
    assert all(value == theirs[0][name] for name, value in ours[0].items()) and ours[1] == theirs[1]
