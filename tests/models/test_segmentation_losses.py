"""Class weights work with ignored pixels."""

import pytest
import torch
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch.nn import functional as F

from mmfocal.models.segmentation_losses import WeightedCrossEntropyLoss

WEIGHTS = [0.5, 1.0, 3.0]


def test_it_is_pytorchs():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 5, 4, requires_grad=True), torch.randint(0, 3, (2, 5, 4))
    labels[:, :2] = 255
    loss = WeightedCrossEntropyLoss(WEIGHTS)(logits, labels, ignore_index=255)
    expected = F.cross_entropy(logits, labels, torch.tensor(WEIGHTS), ignore_index=255)
    torch.testing.assert_close(loss, expected)
    gradients = torch.autograd.grad(loss, logits, retain_graph=True), torch.autograd.grad(expected, logits)
    torch.testing.assert_close(*gradients)


def test_mmsegmentations_fails():
    init_default_scope('mmseg')
    logits, labels = torch.randn(1, 3, 2, 2), torch.full((1, 2, 2), 255)
    loss = MODELS.build(dict(type='CrossEntropyLoss', class_weight=WEIGHTS))
    with pytest.raises(IndexError):
        loss(logits, labels, ignore_index=255)
    ours = MODELS.build(dict(type='WeightedCrossEntropyLoss', class_weight=WEIGHTS))
    assert ours(logits, labels, ignore_index=255) == 0, 'no pixel counts'
