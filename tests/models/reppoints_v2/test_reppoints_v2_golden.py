"""The released RepPoints V2 head's numbers: outputs, targets, losses, gradients and boxes.

To keep tests/data/reppoints_v2_*.npz small, raw outputs of maps of more than 200 cells are every third row and
column of the released ones, foreground is where its weights are positive, and scores are without their column of
zeros. The rest is whole, and all is float32 as it was.

The head runs in float64 here, so that no result depends on the instructions of a CPU: in float32, ties of scores and
kinks of ReLU and of the losses fall one way with AVX-512 and another with AVX2.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmcv.ops import batched_nms
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

import mmfocal.models.reppoints_v2  # noqa: F401
from mmfocal.models.reppoints_v2.foreground import foreground_weights

DATA = Path(__file__).parents[2] / 'data'
LOSSES = {'loss_cls', 'loss_pts_init', 'loss_pts_refine', 'loss_heatmap', 'loss_offset', 'loss_sem'}


def under(prefix, golden):
    return {key[len(prefix) :]: value for key, value in golden.items() if key.startswith(prefix)}


@pytest.fixture(scope='module', params=['smoothl1', 'giou_empty_image'])
def case(request):
    """A golden file, the head with its weights, and its outputs, losses and gradients."""
    arrays = np.load(DATA / f'reppoints_v2_{request.param}.npz', allow_pickle=False)
    golden = {key: torch.from_numpy(value) for key, value in arrays.items() if key != 'config'}
    config = json.loads(str(arrays['config']))
    head = MODELS.build(ConfigDict(type='RepPointsV2Head', **config))
    head.load_state_dict(under('state_dict/', golden), strict=True)

    head.double()
    feats = [golden[f'feat{level}'].double() for level in range(5)]
    size = tuple(golden['image_hw'].tolist())
    metas = [dict(img_shape=size, pad_shape=size, batch_input_shape=size, scale_factor=(1.0, 1.0))] * 2
    instances = [InstanceData(bboxes=golden[f'gt_bboxes{i}'], labels=golden[f'gt_labels{i}']) for i in (0, 1)]
    outputs = head(feats)
    losses = head.loss_by_feat(*outputs, instances, metas)
    losses = {name: torch.stack([value] if torch.is_tensor(value) else value) for name, value in losses.items()}
    sum(value.sum() for value in losses.values()).backward()
    points, _ = head.get_points([feat.shape[-2:] for feat in feats], metas, 'cpu')
    return SimpleNamespace(
        golden=golden,
        head=head,
        outputs=outputs,
        losses=losses,
        instances=instances,
        metas=metas,
        priors=InstanceData(priors=torch.cat(points[0])),
    )


def assert_equal_to(actual, expected):
    """Within 1e-5 of the largest number: the released numbers were rounded in float32, up to 2e-6 of it."""
    atol = 1e-5 * expected.abs().max().item()
    torch.testing.assert_close(actual.detach().double(), expected.double(), rtol=0, atol=atol)


def test_weights_have_the_released_names(case):
    weights = under('state_dict/', case.golden)
    assert {name: value.shape for name, value in case.head.state_dict().items()} == {
        name: value.shape for name, value in weights.items()
    }


def test_raw_outputs(case):
    names = ('cls', 'pts_init', 'pts_refine', 'hm_score', 'hm_offset', 'sem')
    assert len(case.outputs) == len(names)
    for name, levels in zip(names, case.outputs):
        for level, output in enumerate(levels):
            if output.shape[-2] * output.shape[-1] > 200:
                output = output[:, :, ::3, ::3]
            assert_equal_to(output, case.golden[f'forward/{name}{level}'])


def test_losses_of_each_level(case):
    assert set(case.losses) == LOSSES
    for name, losses in case.losses.items():
        torch.testing.assert_close(losses.detach().double(), case.golden[f'loss/{name}'], rtol=1e-5, atol=0)


def test_gradients(case):
    expected = under('grad/', case.golden)
    assert len(expected) == 4
    for name, gradient in expected.items():
        assert_equal_to(case.head.get_parameter(name).grad, gradient)


def test_targets_of_the_initial_points(case):
    assigned = case.head.init_assigner.assign(case.priors, case.instances[0])
    expected = case.golden['assign/init_gt_inds']
    assert assigned.gt_inds.equal(expected) and expected.max() == len(case.instances[0])
    labels = case.instances[0].labels
    assert assigned.labels.equal(torch.where(expected > 0, labels[expected - 1], -1))


def test_targets_of_the_corners(case):
    targets = case.head.heatmap_assigner.assign(case.priors, case.instances[0])
    for corner, target in zip(('tl', 'br'), targets):
        assert_equal_to(target.heatmap, case.golden[f'assign/hm_{corner}'])
        assert_equal_to(target.offset, case.golden[f'assign/offset_{corner}'])
        assert target.positive.equal(case.golden[f'assign/hm_{corner}'] == 1)


def test_foreground_maps(case):
    size = case.golden['gt_sem_weights0'].shape[-2:]
    weights = foreground_weights(case.instances, case.head.num_classes, size, 8)
    for image in range(2):
        expected = case.golden[f'gt_sem_weights{image}']
        assert (weights[image] > 0).equal(expected > 0)
        torch.testing.assert_close(weights[image], expected, rtol=1e-5, atol=0)


def order_of(bboxes, scores, expected_bboxes, expected_scores):
    """Returns where each expected detection is: scores that are equal in float32 have no order among them."""
    actual, expected = torch.cat([bboxes / 100, scores], 1), torch.cat([expected_bboxes / 100, expected_scores], 1)
    order = torch.cdist(expected.double(), actual, p=float('inf')).argmin(1)
    rank = torch.arange(len(order))
    assert order.sort().values.equal(rank)  # each of them once
    moved = order != rank
    best = expected_scores.amax(1)
    torch.testing.assert_close(best[moved], best[order[moved]], rtol=1e-5, atol=0)
    return order


def test_boxes_and_scores_before_nms(case):
    cls_scores, _, *verified, _ = case.outputs
    for image in range(2):
        outputs = [[level[image].detach() for level in levels] for levels in (cls_scores, *verified)]
        bboxes, scores = case.head._decode(*outputs, case.metas[image]['img_shape'], 1000)
        expected_bboxes, expected_scores = case.golden[f'pre_nms_boxes{image}'], case.golden[f'pre_nms_scores{image}']
        order = order_of(bboxes, scores, expected_bboxes, expected_scores)
        assert_equal_to(bboxes[order], expected_bboxes)
        assert_equal_to(scores[order], expected_scores)


def test_detections(case):
    cfg = ConfigDict(case.head.test_cfg, nms=dict(type='nms', iou_threshold=0.6))
    with torch.no_grad():
        results = case.head.predict_by_feat(*case.outputs, case.metas, cfg)
    for image, result in enumerate(results):
        bboxes, scores = case.golden[f'pre_nms_boxes{image}'], case.golden[f'pre_nms_scores{image}']
        upright = (bboxes[:, 0] < bboxes[:, 2]) & (bboxes[:, 1] < bboxes[:, 3])
        index, labels = ((scores > 0.05) & upright[:, None]).nonzero().unbind(1)
        detections, keep = batched_nms(bboxes[index], scores[index, labels], labels, cfg.nms)
        assert 5 < len(result) <= 100 and 0 < upright.sum() < len(upright)
        assert result.labels.equal(labels[keep][:100])
        assert_equal_to(torch.cat([result.bboxes, result.scores[:, None]], 1), detections[:100])
