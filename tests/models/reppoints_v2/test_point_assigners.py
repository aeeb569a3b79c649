"""RepPoints V2's assigners against their definitions, box by box and point by point.

Coordinates are halves and a box's sides powers of two, so that ties are frequent and exact in float32.
"""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mmdet.models.task_modules.assigners import PointAssigner
from mmdet.models.utils.gaussian_target import gaussian_radius as mmdet_gaussian_radius
from mmengine.structures import InstanceData

from mmfocal.models.reppoints_v2.assigners import PointAssignerV2, PointHMAssigner, gaussian_radius

CHECK = settings(max_examples=100, derandomize=True, deadline=None, database=None)


def make_points(*sizes):
    """The points (x, y, stride) of levels of these heights and widths, strides 8, 16, …"""
    return [
        (column * stride, row * stride, stride)
        for stride, (height, width) in zip((8, 16, 32), sizes)
        for row in range(height)
        for column in range(width)
    ]


def instances(points, boxes):
    priors = InstanceData(priors=torch.tensor(points, dtype=torch.float32))
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return priors, InstanceData(bboxes=boxes, labels=torch.arange(len(boxes)) % 3)


side = st.integers(1, 7)
grids = st.tuples(*[st.tuples(side, side)] * 3).map(lambda sizes: make_points(*sizes))
half = st.integers(-40, 160).map(lambda value: value / 2)


@st.composite
def boxes(draw, largest=8):
    result = []
    for _ in range(draw(st.integers(0, largest))):
        left, top, log_width = draw(half), draw(half), draw(st.integers(-1, 7))
        log_height = log_width + draw(st.integers(-3, 3))
        result.append((left, top, left + 2.0**log_width, top + 2.0**log_height))
    return result


def initial_targets(points, boxes, pos_num):
    """The definition: the box, from 1, that owns each point."""
    levels = [int(math.log2(stride)) for *_, stride in points]
    claims = [[] for _ in points]
    for index, (x1, y1, x2, y2) in enumerate(boxes, 1):
        width, height = x2 - x1, y2 - y1
        level = int((math.log2(width / 4) + math.log2(height / 4)) / 2)
        level = min(max(level, min(levels)), max(levels))
        distances = sorted(
            (math.hypot((x - (x1 + x2) / 2) / width, (y - (y1 + y2) / 2) / height), point)
            for point, (x, y, _) in enumerate(points)
            if levels[point] == level
        )
        for distance, point in distances[:pos_num]:
            claims[point].append((distance, index))
    return [min(claim)[1] if claim else 0 for claim in claims]


@CHECK
@given(grids, boxes(), st.sampled_from([1, 2, 3]))
@example(make_points((1, 1), (2, 2), (1, 1)), [(0.0, 0.0, 4.0, 4.0), (0.0, 0.0, 128.0, 128.0)], 3)  # too few points
def test_initial_points(points, boxes, pos_num):
    priors, gt = instances(points, boxes)
    assigned = PointAssignerV2(pos_num=pos_num).assign(priors, gt)
    expected = torch.tensor(initial_targets(points, boxes, pos_num))
    assert assigned.num_gts == len(boxes) and assigned.gt_inds.equal(expected)
    assert assigned.labels.equal(torch.where(expected > 0, (expected - 1) % 3, -1))


@pytest.mark.parametrize('pos_num', [1, 3])
def test_initial_points_are_those_of_mmdetection(pos_num):
    torch.manual_seed(0)
    points, shared = make_points((12, 16), (6, 8), (3, 4)), 0
    for _ in range(20):
        centers, sizes = torch.rand(30, 2) * 128, torch.rand(30, 2) * 100 + 0.1
        priors, gt = instances(points, torch.cat([centers - sizes / 2, centers + sizes / 2], 1).tolist())
        expected = PointAssigner(scale=4, pos_num=pos_num).assign(priors, gt)
        assigned = PointAssignerV2(scale=4, pos_num=pos_num).assign(priors, gt)
        assert assigned.gt_inds.equal(expected.gt_inds) and assigned.labels.equal(expected.labels)
        shared += 30 * pos_num - (expected.gt_inds > 0).sum()
    assert shared > 50  # several boxes claimed a point


def test_zero_sizes_and_coordinates_far_away():
    points = make_points((4, 4), (2, 2), (1, 1))
    priors, gt = instances(
        points, [(16.0, 8.0, 16.0, 8.0), (8.0, 20.0, 8.0, 28.0), (1e5, 1e5, 1e5 + 40, 1e5 + 40), (-1e5, 0.0, -9e4, 9.0)]
    )
    assigned = PointAssignerV2().assign(priors, gt).gt_inds
    assert assigned[4 + 2] == 1 and assigned[3 * 4 + 1] == 2  # points (16, 8) and (8, 24) of the first level
    assert (assigned > 0).sum() == 4
    for target in PointHMAssigner().assign(priors, gt):
        assert all(values.isfinite().all() for values in target.values())
        assert 3 <= target.positive.sum() <= 3 * 4


@pytest.mark.parametrize('assigner', [PointAssignerV2(), PointHMAssigner()])
def test_no_points_and_no_boxes(assigner):
    no_points = InstanceData(priors=torch.zeros(0, 3)), instances([], [(0, 0, 8, 8)])[1]
    for priors, gt in (instances(make_points((2, 2)), []), no_points):
        assigned = assigner.assign(priors, gt)
        if isinstance(assigned, tuple):
            for target in assigned:
                assert len(target) == len(priors)
                assert not target.positive.any() and not target.heatmap.any() and not target.offset.any()
        else:
            assert assigned.gt_inds.equal(torch.zeros(len(priors), dtype=torch.long))
            assert (assigned.labels == -1).all()


def corner_targets(points, corners, radii):
    """The definition: heatmap, owner's corner or None, of each point."""
    heatmap, owner = [0.0] * len(points), [None] * len(points)
    for (x, y), radius in zip(corners, radii):
        sigma = (2 * radius + 1) / 6
        distances = [math.hypot(px - x, py - y) for px, py, _ in points]
        for point, distance in enumerate(distances):
            if distance < radius:
                heatmap[point] = max(heatmap[point], math.exp(-(distance**2) / (2 * sigma**2)))
        for stride in {stride for *_, stride in points}:
            level = [point for point, prior in enumerate(points) if prior[2] == stride]
            owner[min(level, key=distances.__getitem__)] = (x, y)  # the first of the nearest; the last box
    return heatmap, owner


@CHECK
@given(grids, boxes(), st.booleans())
@example(make_points((4, 4)), [(4.0, 4.0, 20.0, 20.0), (4.5, 3.0, 20.0, 20.0)], True)  # a tie of four points
@example(make_points((4, 4)), [(3.0, 4.0, 131.0, 132.0), (13.0, 4.0, 141.0, 132.0)], True)  # bumps that meet
def test_corners(points, boxes, bump):
    priors, gt = instances(points, boxes)
    radii = [mmdet_gaussian_radius((y2 - y1, x2 - x1), 0.7) if bump else 0.0 for x1, y1, x2, y2 in boxes]
    targets = PointHMAssigner(gaussian_bump=bump).assign(priors, gt)
    for first, target in zip((0, 2), targets):
        heatmap, owners = corner_targets(points, [box[first : first + 2] for box in boxes], radii)
        offset = [
            [0.0, 0.0] if owner is None else [(owner[0] - x) / stride, (owner[1] - y) / stride]
            for owner, (x, y, stride) in zip(owners, points)
        ]
        heatmap = [1.0 if owner else value for owner, value in zip(owners, heatmap)]
        assert target.positive.tolist() == [owner is not None for owner in owners]
        assert target.offset.tolist() == offset
        torch.testing.assert_close(target.heatmap, torch.tensor(heatmap), rtol=1e-4, atol=1e-6)


def test_bumps_surround_the_corner_itself_and_end_at_the_radius():
    points = [(float(x), 0.0, 1.0) for x in range(-100, 100)]
    priors, gt = instances(points, [(0.25, 0.0, 80.25, 60.0)])
    target = PointHMAssigner(gaussian_iou=0.5).assign(priors, gt)[0]
    radius = mmdet_gaussian_radius((60, 80), 0.5)
    assert 9 < radius < 11 and target.positive.nonzero().tolist() == [[100]]
    for (x, *_), value in zip(points, target.heatmap.tolist()):
        distance = abs(x - 0.25)
        bump = math.exp(-(distance**2) / 2 / ((2 * radius + 1) / 6) ** 2) if distance < radius else 0
        assert value == (1 if x == 0 else pytest.approx(bump, rel=1e-4))


def test_radius_is_that_of_mmdetection():
    generator = torch.Generator().manual_seed(0)
    sizes = torch.rand(200, 2, generator=generator) ** 3 * 1300
    sizes = torch.cat([sizes, torch.tensor([[0.0, 0.0], [0.0, 50.0], [1.0, 1.0], [1333.0, 1.0], [0.01, 0.02]])])
    for overlap in (0.3, 0.7):
        expected = torch.tensor([mmdet_gaussian_radius(size, overlap) for size in sizes.tolist()]).double()
        torch.testing.assert_close(gaussian_radius(sizes.double(), overlap), expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(gaussian_radius(sizes, overlap).double(), expected, rtol=1e-4, atol=1e-3)
