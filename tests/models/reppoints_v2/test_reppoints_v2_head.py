"""RepPoints V2's head: unusual boxes and images, padding, ignored boxes, initial weights."""

import copy
import itertools
import math
import pickle

import pytest
import torch
from mmcv.ops import DeformConv2d
from mmdet.models.task_modules.assigners import ATSSAssigner
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import nn

import mmfocal.models.reppoints_v2  # noqa: F401
from mmfocal.errors import ConfigError
from mmfocal.models.reppoints_v2.head import verify_corners

STRIDES = (8, 16, 32, 64, 128)
NORM = dict(type='GN', num_groups=4)
TOWERS = dict(in_channels=16, feat_channels=16, point_feat_channels=16, stacked_convs=1, norm_cfg=NORM)
NMS = dict(type='nms', iou_threshold=0.6)
TEST = dict(nms_pre=1000, min_bbox_size=0, score_thr=0.05, nms=NMS, max_per_img=100)
LOSSES = {'GIoULoss': dict(type='GIoULoss'), 'SmoothL1Loss': dict(type='SmoothL1Loss', beta=0.11)}


def make_head(loss='GIoULoss', ignore_iof_thr=-1, **kwargs):
    torch.manual_seed(0)
    stages = dict(
        init=dict(assigner=dict(type='PointAssignerV2'), pos_weight=-1),
        heatmap=dict(assigner=dict(type='PointHMAssigner')),
        refine=dict(assigner=dict(type='ATSSAssigner', topk=9, ignore_iof_thr=ignore_iof_thr), pos_weight=-1),
    )
    config = dict(
        type='RepPointsV2Head',
        num_classes=3,
        corner_dim=8,
        loss_bbox_init=LOSSES[loss],
        loss_bbox_refine=LOSSES[loss],
        train_cfg=stages,
        test_cfg=TEST,
        **TOWERS,
    )
    return MODELS.build(ConfigDict(config, **kwargs))


def make_feats(size, batch=2):
    generator = torch.Generator().manual_seed(1)
    sizes = [[math.ceil(side / stride) for side in size] for stride in STRIDES]
    return [torch.randn(batch, 16, *size, generator=generator) for size in sizes]


def make_sample(boxes, size, pad_shape=None, ignored=None):
    sample = DetDataSample(
        metainfo=dict(img_shape=size, ori_shape=size, pad_shape=pad_shape or size, scale_factor=(1.0, 1.0))
    )
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.arange(len(boxes)) % 3)
    if ignored is not None:
        sample.ignored_instances = InstanceData(bboxes=torch.tensor(ignored))
    return sample


def total(losses):
    return sum(value if torch.is_tensor(value) else sum(value) for value in losses.values())


ONE = [[10.0, 12.0, 50.0, 40.0]]
SIZE = (64, 96)
CASES = {  # the boxes of two images, and their size
    'none': ([], [], SIZE),
    'none in one image': (ONE, [], SIZE),
    'one': (ONE, ONE, SIZE),
    'smaller than a stride': ([[17.0, 19.0, 18.0, 22.0], [3.0, 3.0, 3.5, 3.5]], [[40.0, 40.0, 47.0, 41.0]], SIZE),
    'partly outside': (
        [[-30.0, -20.0, 20.0, 30.0], [70.0, 50.0, 200.0, 300.0]],
        [[-500.0, -500.0, 900.0, 800.0]],
        SIZE,
    ),
    'wholly outside': (
        [[-60.0, -50.0, -20.0, -10.0], [200.0, 300.0, 250.0, 350.0]],
        [[-90.0, 20.0, -50.0, 40.0]],
        SIZE,
    ),
    'zero size': ([[20.0, 20.0, 20.0, 20.0], [30.0, 10.0, 30.0, 60.0]], [[0.0, 0.0, 90.0, 0.0]], SIZE),
    'the same often': (ONE * 7, ONE * 2, SIZE),
    'more than cells': ([[i / 4, i / 5, i / 2 + 6, i / 3 + 5] for i in range(60)], ONE, (16, 24)),
    'one row': ([[2.0, 1.0, 30.0, 7.0]], [[40.0, 0.0, 90.0, 8.0]], (8, 96)),
    'one cell': ([[1.0, 1.0, 6.0, 7.0], [0.0, 0.0, 8.0, 8.0]], [], (8, 8)),
}


@pytest.mark.parametrize('loss', LOSSES)
@pytest.mark.parametrize('case', CASES)
def test_unusual_boxes(case, loss):
    *images, size = CASES[case]
    head, feats, samples = make_head(loss), make_feats(size), [make_sample(boxes, size) for boxes in images]
    losses = head.loss(feats, samples)
    levels = [level for value in losses.values() for level in ([value] if torch.is_tensor(value) else value)]
    assert len(levels) == 5 * 5 + 1 and all(level.isfinite() for level in levels)
    total(losses).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name

    with torch.no_grad():
        results = head.predict(feats, [make_sample([], (size[0] - 3, size[1] - 2), size)] * 2)
    for result in results:
        x1, y1, x2, y2 = result.bboxes.unbind(1)
        assert 0 < len(result) <= 100 and set(result.labels.tolist()) <= {0, 1, 2}
        assert result.scores.diff().le(0).all() and (result.scores > 0.05).all()
        assert (0 <= x1).all() and (x1 < x2).all() and (x2 <= size[1] - 2).all()
        assert (0 <= y1).all() and (y1 < y2).all() and (y2 <= size[0] - 3).all()


def outputs_and_gradients(head, feats, samples, names):
    """The head's outputs, and the gradients at them of the sum of the losses of these names."""
    outputs = [[level.detach().requires_grad_() for level in levels] for levels in head(feats)]
    losses = head.loss_by_feat(
        *outputs,
        [sample.gt_instances for sample in samples],
        [sample.metainfo for sample in samples],
        [sample.get('ignored_instances') for sample in samples],
    )
    flat = [level for levels in outputs for level in levels]
    loss = total({f'loss_{name}': losses[f'loss_{name}'] for name in names})
    grads = torch.autograd.grad(loss, flat, allow_unused=True, materialize_grads=True)
    return outputs, [list(grads[5 * i : 5 * i + 5]) for i in range(6)]


def test_what_lies_beyond_an_image_is_background_for_the_verifications_only():
    size, small = (64, 96), (64, 32)
    head, feats = make_head(), make_feats(size)
    samples = [make_sample(ONE, size), make_sample([[4.0, 4.0, 31.0, 60.0], [20.0, 20.0, 60.0, 60.0]], small, small)]
    arguments = head, feats, samples
    _, (cls, init, refine, *_) = outputs_and_gradients(*arguments, ['cls', 'pts_init', 'pts_refine'])
    outputs, (*_, score, offset, sem) = outputs_and_gradients(*arguments, ['heatmap', 'offset', 'sem'])
    for level in range(2):  # the only ones with columns wholly beyond 32 pixels, apart from the third
        first = 32 // STRIDES[level]
        assert (cls[level][0] != 0).all() and (cls[level][1, :, :, :first] != 0).all()
        for grad in (cls, init, refine, offset):
            assert not grad[level][1, :, :, first:].any()
        assert (score[level][1, :, :, first:] > 0).all()  # only ever made smaller
    assert (sem[0][1, :, :, 8:] > 0).all()  # the second box ends at 60 pixels, in column 7
    # The image by itself, with the same outputs where it is: the same losses for its points.
    both = [[level[1:].detach() for level in levels] for levels in outputs]
    alone = [
        [level[:, :, :, : math.ceil(32 / stride)].contiguous() for level, stride in zip(levels, STRIDES)]
        for levels in both
    ]
    instances, metas = [samples[1].gt_instances], [samples[1].metainfo]
    expected, actual = head.loss_by_feat(*alone, instances, metas), head.loss_by_feat(*both, instances, metas)
    for name in ('loss_cls', 'loss_pts_init', 'loss_pts_refine', 'loss_offset'):
        torch.testing.assert_close(torch.tensor(actual[name]), torch.tensor(expected[name]), msg=name)


@pytest.mark.parametrize('threshold', [-1, 0.5])
def test_ignored_boxes_as_in_v1(threshold):
    size, ignored = (128, 128), [[0.0, 0.0, 128.0, 50.0]]
    head, feats = make_head(ignore_iof_thr=threshold), make_feats(size)
    head.reppoints_pts_init_out.bias.data[:4] = torch.tensor([-1.0, -1.0, 1.0, 1.0])  # no inverted boxes
    samples = [make_sample([[10.0, 60.0, 60.0, 110.0]], size, ignored=ignored), make_sample(ONE, size)]
    outputs, (cls, *_) = outputs_and_gradients(head, feats, samples, ['cls'])
    excluded = torch.cat([(level == 0).all(1).flatten(1) for level in cls], 1)

    metas = [sample.metainfo for sample in samples]
    points, valid = head.get_points([level.shape[-2:] for level in outputs[0]], metas, 'cpu')
    priors = head._initial_boxes(points, outputs[1])
    assigned = ATSSAssigner(topk=9, ignore_iof_thr=threshold).assign(
        InstanceData(priors=torch.cat(priors[0])[:, :4]),
        [len(level) for level in priors[0]],
        samples[0].gt_instances,
        samples[0].ignored_instances,
    )
    assert excluded[0].equal(assigned.gt_inds < 0) and not excluded[1].any()
    assert excluded[0].any() == (threshold > 0)

    max_iou = dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, ignore_iof_thr=threshold)
    v1 = MODELS.build(
        ConfigDict(
            type='RepPointsHead',
            num_classes=3,
            train_cfg=dict(
                init=dict(assigner=dict(type='PointAssigner', pos_num=1), pos_weight=-1),
                refine=dict(assigner=max_iou, pos_weight=-1),
            ),
            **TOWERS,
        )
    )
    instances = [sample.gt_instances for sample in samples]
    _, weights, *_ = v1.get_targets(
        priors, valid, instances, metas, [samples[0].ignored_instances, None], stage='refine'
    )
    assert excluded[0].equal(torch.cat(weights, 1)[0] == 0)  # V1 with one threshold leaves out nothing else


def test_gradients_reach_the_initial_points_slowly_and_only_as_places_to_look_at():
    head, feats, samples = make_head(), make_feats(SIZE), [make_sample(ONE, SIZE)] * 2
    gradients = {}
    for multiplier in (0.0, 0.1, 1.0):
        head.gradient_mul = multiplier
        losses = head.loss(feats, samples)
        loss = sum(losses['loss_cls']) + sum(losses['loss_pts_refine'])
        gradients[multiplier] = torch.autograd.grad(loss, head.reppoints_pts_init_conv.weight)[0]
    assert not gradients[0.0].any() and gradients[1.0].abs().max() > 0
    torch.testing.assert_close(gradients[0.1], 0.1 * gradients[1.0])


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_autocast(dtype):
    """With a neck's output in either precision. The losses and the boxes are computed in float32."""
    head, samples = make_head(), [make_sample(ONE, SIZE), make_sample([], SIZE)]
    instances, metas = [sample.gt_instances for sample in samples], [sample.metainfo for sample in samples]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        outputs = head([feat.to(dtype) for feat in make_feats(SIZE)])
        losses = head.loss_by_feat(*outputs, instances, metas)
        results = head.predict_by_feat(*outputs, metas)
    loss = total(losses)
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())
    assert loss.item() == pytest.approx(total(head.loss(make_feats(SIZE), samples)).item(), rel=0.1)

    outputs = [[level.detach().float() for level in levels] for levels in outputs]
    assert loss.item() == pytest.approx(total(head.loss_by_feat(*outputs, instances, metas)).item(), rel=1e-5)
    for actual, expected in zip(results, head.predict_by_feat(*outputs, metas)):
        torch.testing.assert_close(actual.bboxes.detach(), expected.bboxes)


@pytest.mark.parametrize('method', ['exact_minmax', 'minmax', 'partial_minmax', 'moment'])
def test_copies_and_transform_methods(method):
    size = (64, 96)
    head, feats = make_head(transform_method=method), make_feats(size)
    samples = [make_sample(ONE, size), make_sample([], size)]
    loss = total(head.loss(feats, samples))
    loss.backward()
    assert loss.isfinite() and all(parameter.grad.isfinite().all() for parameter in head.parameters())
    for other in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert total(other.loss(feats, samples)) == loss
    with torch.no_grad():
        assert len(head.predict(feats, samples)[0])


def test_first_point_is_the_top_left_corner_and_the_second_the_bottom_right():
    points = torch.arange(2 * 18 * 3 * 4.0).view(2, 18, 3, 4)
    head = make_head()
    boxes = torch.stack([points[:, 1], points[:, 0], points[:, 3], points[:, 2]], 1)
    assert head.points2bbox(points).equal(boxes)
    assert head.points2bbox(points, y_first=False).equal(points[:, :4])


def test_verify_corners():
    generator = torch.Generator().manual_seed(0)
    for height, width in [(5, 7), (2, 2), (1, 6), (4, 1), (1, 1)]:
        score, *offset = torch.randn(3, height, width, generator=generator)
        corners = torch.rand(50, 2, generator=generator) * torch.tensor([width + 2.0, height + 2.0]) - 1
        expected = []
        for x, y in corners.tolist():
            left, top = max(min(math.floor(x), width - 2), 0), max(min(math.floor(y), height - 2), 0)
            cells = itertools.product(range(top, min(top + 2, height)), range(left, min(left + 2, width)))
            row, column = max(cells, key=lambda cell: score[cell])
            expected.append([column + offset[0][row, column].item(), row + offset[1][row, column].item()])
        actual = verify_corners(corners, score, torch.stack(offset))
        torch.testing.assert_close(actual, torch.tensor(expected))


@pytest.mark.parametrize(
    'kwargs, sentence',
    [
        (dict(use_grid_points=True), 'use_grid_points and center_init are not supported'),
        (dict(center_init=False), 'use_grid_points and center_init are not supported'),
        (dict(loss_cls=dict(type='CrossEntropyLoss')), 'use_sigmoid=True in loss_cls'),
        (dict(num_points=1), 'num_points must be 9'),
        (dict(train_cfg=dict(init=dict(), refine=dict())), 'no heatmap'),
    ],
)
def test_what_it_cannot_do_is_refused(kwargs, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make_head(**kwargs)


@pytest.mark.parametrize('initial_box', [0, 4])
def test_initial_weights(initial_box):
    head = make_head(
        initial_box=initial_box,
        in_channels=64,
        feat_channels=64,
        point_feat_channels=64,
        stacked_convs=2,
        corner_dim=32,
    )
    head.init_weights()
    priors, convolutions = set(), 0
    for name, module in head.named_modules():
        if isinstance(module, (nn.Conv2d, DeformConv2d)):
            convolutions += 1
            count = module.weight.numel()
            assert module.weight.std().item() == pytest.approx(0.01, rel=4 / count**0.5), name
            assert abs(module.weight.mean().item()) < 0.05 / count**0.5, name
            bias = getattr(module, 'bias', None)
            if name == 'reppoints_pts_init_out':
                assert bias.tolist() == [-initial_box / 2] * 2 + [initial_box / 2] * 2 + [0.0] * 14
            elif bias is not None and bias.any():
                priors.add(name)
                torch.testing.assert_close(bias.data, torch.full_like(bias, -math.log(99)))
        elif isinstance(module, nn.GroupNorm):
            assert module.weight.eq(1).all() and module.bias.eq(0).all(), name
    assert convolutions == 27
    assert priors == {f'reppoints_{name}_out' for name in ('cls', 'hem_tl_score', 'hem_br_score', 'sem')}
