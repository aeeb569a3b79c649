"""RepPoints V2's foreground maps and their loss against their definitions, cell by cell."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.structures import InstanceData

from mmfocal.models.reppoints_v2.foreground import SEPFocalLoss, foreground_weights

half = st.integers(-30, 170).map(lambda value: value / 2)
span = st.tuples(half, half).map(sorted)
corners = st.tuples(span, span).map(lambda spans: (spans[0][0], spans[1][0], spans[0][1], spans[1][1]))
images = st.lists(st.lists(st.tuples(corners, st.integers(0, 2)), max_size=6), min_size=1, max_size=3)


def make_instances(image):
    return InstanceData(
        bboxes=torch.tensor([box for box, _ in image]).reshape(-1, 4),
        labels=torch.tensor([label for _, label in image], dtype=torch.long),
    )


@settings(max_examples=100, derandomize=True, deadline=None, database=None)
@given(images, st.sampled_from([(1, 1), (5, 8), (8, 5)]), st.sampled_from([8, 16]))
def test_maps(images, size, stride):
    weights = foreground_weights([make_instances(image) for image in images], 3, size, stride)
    assert weights.shape == (len(images), 3, *size) and not weights.requires_grad
    expected = torch.zeros_like(weights)
    for index, image in enumerate(images):

        def area(item):
            x1, y1, x2, y2 = item[0]
            return max((x2 - x1) * (y2 - y1), 1)

        for item in sorted(image, key=area, reverse=True):
            (x1, y1, x2, y2), label = item
            for row in range(size[0]):
                for column in range(size[1]):
                    top, left = row * stride, column * stride
                    if top <= y2 and y1 < top + stride and left <= x2 and x1 < left + stride:
                        expected[index, label, row, column] = 1 / area(item)
    torch.testing.assert_close(weights, expected, rtol=1e-6, atol=0)


def test_small_boxes_lie_over_large_ones_of_their_class_only():
    small, large = [16.0, 16.0, 24.0, 32.0], [0.0, 0.0, 60.0, 60.0]
    for order in ([0, 1, 2], [2, 1, 0]):
        boxes, labels = torch.tensor([large, small, small])[order], torch.tensor([0, 0, 1])[order]
        weights = foreground_weights([InstanceData(bboxes=boxes, labels=labels)], 2, (8, 8), 8)[0]
        assert weights[0, 2:5, 2:4].eq(1 / 128).all()
        assert weights[0, 0, 0] == weights[0, 7, 7] == weights[0, 2, 4] == torch.tensor(1 / 3600)
        assert weights[1, 2:5, 2:4].eq(1 / 128).all() and weights[1].count_nonzero() == 6


def sep_focal_loss(logits, weights, gamma, alpha, loss_weight):
    """The definition, number by number."""
    positive = negative = 0.0
    for logit, weight in zip(logits, weights):
        probability = 1 / (1 + math.exp(-logit))
        if weight > 0:
            positive -= weight * alpha * (1 - probability) ** gamma * math.log(probability)
        else:
            negative -= (1 - alpha) * probability**gamma * math.log(1 - probability)
    cells = sum(weight > 0 for weight in weights)
    return loss_weight * (positive / (sum(weights) if cells else 1) + negative / max(cells, 1))


@pytest.mark.parametrize('cells', [0, 1, 40])
@pytest.mark.parametrize('gamma, alpha, loss_weight', [(2.0, 0.25, 0.1), (1.5, 0.6, 1.0)])
def test_loss(cells, gamma, alpha, loss_weight):
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(4, 5, 6, generator=generator, dtype=torch.float64) * 3).requires_grad_()
    weights = torch.rand(120, generator=generator, dtype=torch.float64) / 100
    weights[torch.randperm(120, generator=generator)[cells:]] = 0
    loss = SEPFocalLoss(gamma=gamma, alpha=alpha, loss_weight=loss_weight)
    expected = sep_focal_loss(logits.flatten().tolist(), weights.tolist(), gamma, alpha, loss_weight)
    assert loss(logits, weights.view(4, 5, 6)).item() == pytest.approx(expected, rel=1e-9)
    assert torch.autograd.gradcheck(lambda logits: loss(logits, weights.view(4, 5, 6)), logits)


@pytest.mark.parametrize('scale', [1.0, 512.0, 65536.0])
def test_gradients_are_finite_without_foreground(scale):
    """Also those of a loss that is scaled for half precision."""
    logits = torch.linspace(-80, 80, 50, requires_grad=True)
    (SEPFocalLoss(loss_weight=0.1)(logits, torch.zeros(50)) * scale).backward()
    assert logits.grad.isfinite().all() and (logits.grad[25:] > 0).all()
