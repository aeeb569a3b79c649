"""Operators that MMCV has for GPUs only, against other implementations; types, autocast, compilation, bad input."""

import math

import mmcv.ops
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction, multi_scale_deformable_attn_pytorch
from torch import nn

from mmfocal.errors import ConfigError

pytestmark = pytest.mark.usefixtures('our_operators')


def gradients(function, *tensors):
    output = function(*tensors)
    weights = torch.arange(output.numel(), dtype=output.dtype).cos().view_as(output)
    return [output, *torch.autograd.grad(output, tensors, weights)]


def assert_same(found, expected, tolerance=1e-10):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()


def test_multi_scale_attention():
    shapes = torch.tensor([[6, 4], [3, 2]])
    starts = torch.tensor([0, 24])
    value, weights = random(2, 30, 3, 5), random(2, 7, 3, 2, 4)
    locations = (torch.rand(2, 7, 3, 2, 4, 2, dtype=torch.float64) * 1.4 - 0.2).requires_grad_()
    found = gradients(
        lambda *tensors: MultiScaleDeformableAttnFunction.apply(tensors[0], shapes, starts, *tensors[1:], 64),
        *(value, locations, weights),
    )
    expected = gradients(
        lambda *tensors: multi_scale_deformable_attn_pytorch(tensors[0], shapes, *tensors[1:]),
        *(value, locations, weights),
    )
    assert_same(found, expected)


@pytest.mark.parametrize('weight', [None, torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)])
def test_sigmoid_focal_loss(weight):
    logits, target = 4 * random(5, 3), torch.tensor([0, 2, 1, 3, 0])  # 3: background

    def expected(logits):
        one_hot = F.one_hot(target, 4)[:, :3].to(logits)
        p = logits.sigmoid()
        p_true = torch.where(one_hot > 0, p, 1 - p)
        loss = F.binary_cross_entropy_with_logits(logits, one_hot, reduction='none') * (1 - p_true) ** 2
        loss = loss * torch.where(one_hot > 0, 0.25, 0.75)
        return loss if weight is None else loss * torch.cat([weight, weight.new_ones(1)])[target][:, None]

    found = gradients(lambda logits: mmcv.ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, weight, 'none'), logits)
    assert_same(found, gradients(expected, logits))
    assert torch.isfinite(
        torch.stack(gradients(lambda x: mmcv.ops.sigmoid_focal_loss(x, target, 2.0, 0.25, None, 'none'), 500 * logits))
    ).all()


def test_softmax_focal_loss():
    logits, target = random(5, 3), torch.tensor([0, 2, 1, -1, 0])  # -1: ignored
    weight = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)

    def expected(logits):
        p = logits.softmax(1).gather(1, target.clamp(min=0)[:, None])[:, 0]
        return torch.where(target >= 0, -0.25 * (1 - p) ** 2 * p.log() * weight[target.clamp(min=0)], 0)

    output = mmcv.ops.softmax_focal_loss(logits, target, 2.0, 0.25, weight, 'sum')
    (gradient,) = torch.autograd.grad(output, logits)
    assert_same([output, gradient], [expected(logits).sum(), torch.autograd.grad(expected(logits).sum(), logits)[0]])


def pooled_by_loops(maps, rois, size, scale):
    output = torch.zeros(len(rois), maps.shape[1], *size, dtype=maps.dtype)
    for n, (image, *box) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = box[0] * scale, box[1] * scale, (box[2] + 1) * scale, (box[3] + 1) * scale
        for i in range(size[0]):
            for j in range(size[1]):
                top, left = math.floor(y1 + i * (y2 - y1) / size[0]), math.floor(x1 + j * (x2 - x1) / size[1])
                bottom = math.ceil(y1 + (i + 1) * (y2 - y1) / size[0])
                right = math.ceil(x1 + (j + 1) * (x2 - x1) / size[1])
                part = maps[int(image), :, max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
                if part.numel() and x2 > x1 and y2 > y1:
                    output[n, :, i, j] = part.amax((1, 2))
    return output


def test_roi_pool():
    rois = [[0, 1, 2, 9, 11], [1, -6, 3, 5, 30], [1, 3, 3, 3, 3], [0, 40, 40, 50, 50], [1, 9, 9, 2, 2]]
    rois, maps = torch.tensor(rois, dtype=torch.float64), random(2, 3, 8, 7)
    found = gradients(lambda maps: mmcv.ops.roi_pool(maps, rois, (2, 3), 0.5), maps)
    assert_same(found, gradients(lambda maps: pooled_by_loops(maps, rois, (2, 3), 0.5), maps))
    assert mmcv.ops.roi_pool(maps, rois[:0], (2, 3), 0.5).shape == (0, 3, 2, 3)


@pytest.mark.parametrize('ratio', [0, 2])
def test_deformable_roi_pooling(ratio):
    rois = torch.tensor([[0, 1, 2, 9, 11], [1, -6, 3, 5, 20], [1, 2, 2, 12.5, 7]], dtype=torch.float64)
    maps, offset = random(2, 3, 8, 7), random(3, 2, 2, 3, seed=1)
    assert_same(
        gradients(lambda maps: mmcv.ops.deform_roi_pool(maps, rois, None, (2, 3), 0.5, ratio), maps),
        gradients(lambda maps: mmcv.ops.roi_align(maps, rois, (2, 3), 0.5, ratio, 'avg', True), maps),
    )
    # A shift of all bins is a shift of the RoI.
    shift = torch.tensor([0.3, -0.2], dtype=torch.float64)
    size = rois[:, 3:] - rois[:, 1:3]
    moved = torch.cat([rois[:, :1], rois[:, 1:] + 0.1 * (shift * size).repeat(1, 2)], 1)
    shifts = shift[:, None, None].expand(3, 2, 2, 3).contiguous()
    assert_same(
        [mmcv.ops.deform_roi_pool(maps, rois, shifts, (2, 3), 0.5, ratio, 0.1)],
        [mmcv.ops.roi_align(maps, moved, (2, 3), 0.5, ratio, 'avg', True)],
        1e-6,
    )
    assert torch.autograd.gradcheck(
        lambda *tensors: mmcv.ops.deform_roi_pool(tensors[0], rois, tensors[1], (2, 3), 0.5, ratio), (maps, offset)
    )


def test_carafe():
    features, masks = random(2, 4, 3, 5), random(2, 18, 6, 10)

    def expected(features, masks):
        windows = F.unfold(features, 3, padding=1).view(2, 2, 2, 9, 3, 5)
        windows = windows.repeat_interleave(2, 4).repeat_interleave(2, 5)
        return (windows * masks.view(2, 2, 1, 9, 6, 10)).sum(3).view(2, 4, 6, 10)

    assert_same(
        gradients(lambda *tensors: mmcv.ops.carafe(*tensors, 3, 2, 2), features, masks),
        gradients(expected, features, masks),
    )
    assert_same([mmcv.ops.carafe_naive(features, masks, 3, 2, 2)], [expected(features, masks)])


def test_masked_convolution():
    layer = mmcv.ops.MaskedConv2d(2, 3, 3, padding=1)
    maps, mask = torch.randn(1, 2, 5, 6), torch.rand(1, 5, 6) > 0.5
    with torch.no_grad():
        assert_same([layer(maps, mask.float())], [layer(maps) * mask], 1e-5)
        assert not layer(maps, torch.zeros(1, 5, 6)).any()


def test_synchronized_batch_norm():
    maps = torch.randn(4, 3, 5, 6, requires_grad=True)
    results = []
    for ours in (True, False):
        layer = nn.BatchNorm2d(3)
        nn.init.constant_(layer.weight, 1.5)
        statistics = (layer.running_mean, layer.running_var, layer.weight, layer.bias)
        settings = (0.1, 1e-5, None, 1, 'default')  # momentum, eps, group, processes
        output = mmcv.ops.sync_bn.SyncBatchNormFunction.apply(maps, *statistics, *settings) if ours else layer(maps)
        (output * torch.arange(360).cos().view_as(output)).sum().backward()
        results.append([output, maps.grad, layer.weight.grad, layer.bias.grad, *statistics[:2]])
        maps.grad = None
    assert_same(*results, 1e-4)


def test_no_gradient_and_no_crash_for_nan_offsets():
    """NaN and infinite positions read zeros."""
    maps, weight = random(1, 2, 4, 5), random(3, 2, 3, 3)
    offset = torch.zeros(1, 18, 4, 5, dtype=torch.float64)
    offset[:, :, 0, 0], offset[:, :, 1, 1] = torch.nan, torch.inf
    output, *grads = gradients(
        lambda *tensors: mmcv.ops.deform_conv2d(*tensors, 1, 1), maps, offset.requires_grad_(), weight
    )
    assert not output[:, :, 0, 0].any() and not output[:, :, 1, 1].any() and output[:, :, 2, 2].all()
    assert all(torch.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_types(dtype):
    maps, rois = torch.randn(1, 2, 8, 9), torch.tensor([[0, 1.0, 1, 6, 7]])
    offset, weight = torch.randn(1, 18, 8, 9), torch.randn(3, 2, 3, 3)
    for function, inputs in (
        (lambda maps, rois: mmcv.ops.roi_align(maps, rois, 3, 1.0, 2), (maps, rois)),
        (lambda *tensors: mmcv.ops.deform_conv2d(*tensors, 1, 1), (maps, offset, weight)),
    ):
        half = [tensor.to(dtype).requires_grad_() for tensor in inputs]
        output = function(*half)
        output.sum().backward()
        assert output.dtype == half[0].grad.dtype == dtype
        assert_same([output.float()], [function(*(each.detach().float() for each in half))], 0.1)
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 3.5], [5, 5, 9, 9]], dtype=dtype)
    assert mmcv.ops.nms(boxes, boxes[:, 3].contiguous(), 0.5)[1].tolist() == [2, 0]


def test_autocast():
    """As with compiled operators, an operator under autocast computes in the type of its inputs."""
    maps, rois, weight = torch.randn(1, 2, 8, 9), torch.tensor([[0, 1.0, 1, 6, 7]]), torch.randn(3, 2, 3, 3)
    offset = torch.randn(1, 18, 8, 9)
    with torch.autocast('cpu', torch.bfloat16):
        pooled = mmcv.ops.roi_align(maps, rois, 3, 1.0, 2)
        convolved = mmcv.ops.deform_conv2d(maps, offset, weight, 1, 1)
        assert mmcv.ops.deform_conv2d(maps, offset.bfloat16(), weight, 1, 1).dtype == torch.bfloat16
    assert_same([pooled], [mmcv.ops.roi_align(maps, rois, 3, 1.0, 2)], 1e-7)
    assert_same([convolved], [mmcv.ops.deform_conv2d(maps, offset, weight, 1, 1)], 1e-7)


def test_torch_compile():
    """Compilers leave the operators alone, as they do compiled ones."""
    rois = torch.tensor([[0, 1.0, 1, 6, 7]])

    def function(maps):
        boxes = mmcv.ops.roi_align(maps.relu(), rois, 2, 1.0, 2).flatten(1)[:, :4].abs() + 1
        return mmcv.ops.nms(boxes * 2, boxes[:, 0], 0.5)[0].sum() + maps.sum()

    maps = torch.randn(1, 2, 8, 9)
    results = []
    for call in (function, torch.compile(function, backend='aot_eager')):
        leaf = maps.clone().requires_grad_()
        call(leaf).backward()
        results.append([call(leaf), leaf.grad])
    assert_same(*results, 1e-6)


@pytest.mark.parametrize(
    'call',
    [
        lambda maps: mmcv.ops.deform_conv2d(maps, torch.zeros(1, 18, 3, 4), torch.ones(2, 2, 3, 3), 1, 1),
        lambda maps: mmcv.ops.modulated_deform_conv2d(
            maps, torch.zeros(1, 18, 3, 4), torch.ones(1, 9, 3, 4), torch.ones(2, 2, 3, 3), None, 1, 1
        ),
    ],
)
def test_offset_maps_that_are_too_small(call):
    with pytest.raises(ConfigError, match=r'map is \(1, 18, 3, 4\).*expected \(1, 18, 4, 5\)'):
        call(torch.ones(1, 2, 4, 5))


def test_chunks_of_rois_and_of_boxes(monkeypatch):
    """Chunks do not change results."""
    from mmfocal.ops.mmcv_ops import nms, roi_align, roi_pool

    maps = random(2, 3, 8, 7)
    rois = torch.cat([torch.arange(12).double()[:, None] % 2, torch.rand(12, 4, dtype=torch.float64) * 8], 1)
    rois[:, 3:] += rois[:, 1:3]
    boxes, scores = rois[:, 1:].float(), torch.rand(12)

    def results():
        found = [mmcv.ops.nms(boxes, scores, 0.2)[1], mmcv.ops.roi_pool(maps, rois, 2, 0.5)]
        for ratio in (0, 2):
            for mode in ('avg', 'max'):
                found += gradients(lambda m, r=ratio, k=mode: mmcv.ops.roi_align(m, rois, 2, 0.5, r, k), maps)
        return found

    expected = results()
    monkeypatch.setattr(nms, 'CHUNK', 2)
    monkeypatch.setattr(roi_align, 'MAX_SAMPLES', 20)
    monkeypatch.setattr(roi_pool, 'MAX_VALUES', 1)
    assert_same(results(), expected)


def test_numpy_boxes():
    boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 3.9], [5, 5, 9, 9]], np.float32)
    dets, kept = mmcv.ops.nms(boxes, np.array([0.5, 0.6, 0.7], np.float32), 0.5)
    assert kept.tolist() == [2, 1] and isinstance(dets, np.ndarray)
