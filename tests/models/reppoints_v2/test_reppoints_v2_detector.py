"""RepPoints V2 through MMDetection's API, with the nano config; the tables' models by their parameters."""

from pathlib import Path

import pytest
import torch
from mmcv.ops import batched_nms
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_flip
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData

import mmfocal.registration  # noqa: F401

CONFIGS = Path(__file__).parents[3] / 'configs'
SIZE = 96


@pytest.fixture(scope='module')
def cfg():
    init_default_scope('mmdet')
    cfg = Config.fromfile(CONFIGS / 'reppointsv2_focal_nano_shapes.py')
    cfg.model.test_cfg.score_thr = 0.2
    return cfg


@pytest.fixture(scope='module')
def model(cfg):
    """The nano detector with weights by which boxes, scores and corners differ from place to place."""
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    for parameter in model.bbox_head.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5)
    head = model.bbox_head
    for out in (head.reppoints_pts_init_out, head.reppoints_pts_refine_out):
        out.bias.data[:4] = torch.tensor([-1.0, -1.0, 1.0, 1.0])
    head.reppoints_cls_out.bias.data.zero_()
    return model


@pytest.fixture(scope='module')
def images():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(3, 3, 6, 6, generator=generator) * 255
    return list(torch.nn.functional.interpolate(coarse, (SIZE, SIZE), mode='bilinear').to(torch.uint8))


def make_data(images, scale=1.0, flip=False):
    samples = []
    for i, image in enumerate(images):
        size = tuple(image.shape[1:])
        sample = DetDataSample(
            metainfo=dict(
                img_shape=size, ori_shape=size, scale_factor=(scale, scale), flip=flip, flip_direction='horizontal'
            )
        )
        bboxes = torch.tensor([[8.0, 8.0 + i, 40.0, 48.0]])
        sample.gt_instances = InstanceData(bboxes=bboxes, labels=torch.tensor([i % 4]))
        samples.append(sample)
    return dict(inputs=list(images), data_samples=samples)


@torch.no_grad()
def predict(model, *args, **kwargs):
    return [sample.pred_instances for sample in model.test_step(make_data(*args, **kwargs))]


def assert_same(actual, expected, tolerance=1e-3):
    assert len(actual) == len(expected) > 5
    assert actual.labels.equal(expected.labels)
    torch.testing.assert_close(actual.scores, expected.scores, rtol=0, atol=tolerance)
    torch.testing.assert_close(actual.bboxes, expected.bboxes, rtol=0, atol=tolerance)


def test_loss_predict_and_both(model, images):
    data = model.data_preprocessor(make_data(images), training=True)
    losses = model(**data, mode='loss')
    names = ('cls', 'pts_init', 'pts_refine', 'heatmap', 'offset', 'sem')
    assert set(losses) == {f'loss_{name}' for name in names}
    loss, log = model.parse_losses(losses)
    assert loss.isfinite() and loss > 0 and all(log[name] > 0 for name in losses)

    feats = model.extract_feat(data['inputs'])
    both, predictions = model.bbox_head.loss_and_predict(feats, data['data_samples'])
    for name, value in losses.items():
        torch.testing.assert_close(both[name], value)
    for prediction, expected in zip(predictions, predict(model, images)):
        assert not prediction.bboxes.requires_grad and not prediction.scores.requires_grad
        assert_same(prediction, expected)
        assert expected.bboxes.min() >= 0 and expected.bboxes.max() <= SIZE and len(expected) <= 100
    assert len(model(**data, mode='tensor')) == 6


def test_an_image_alone_and_in_a_batch(model, images):
    for image, together in zip(images, predict(model, images)):
        assert_same(predict(model, [image])[0], together)


def test_boxes_in_the_original_image(model, images):
    for expected, actual in zip(predict(model, images), predict(model, images, scale=0.5)):
        torch.testing.assert_close(actual.bboxes, expected.bboxes * 2)


def test_without_nms(model, images):
    data = model.data_preprocessor(make_data(images))
    metas = [sample.metainfo for sample in data['data_samples']]
    with torch.no_grad():
        outputs = model(**data, mode='tensor')
    results = model.bbox_head.predict_by_feat(*outputs, metas, with_nms=False)
    for all_boxes, expected in zip(results, predict(model, images)):
        assert len(all_boxes) > 2 * len(expected) and (all_boxes.scores > 0.2).all()
        kept = batched_nms(all_boxes.bboxes, all_boxes.scores, all_boxes.labels, model.test_cfg.nms)[1]
        assert_same(all_boxes[kept][:100], expected)


def test_an_image_and_its_mirror_image(cfg, model, images):
    tta = MODELS.build(dict(cfg.tta_model, module=cfg.model)).eval()
    tta.module.load_state_dict(model.state_dict())

    def merged(image):
        views = [make_data([view], flip=flip) for view, flip in ((image, False), (image.flip(-1), True))]
        with torch.no_grad():
            return tta.test_step({key: [view[key] for view in views] for key in views[0]})[0].pred_instances

    result, mirrored = merged(images[0]), merged(images[0].flip(-1))
    mirrored.bboxes = bbox_flip(mirrored.bboxes, (SIZE, SIZE))
    assert_same(result, mirrored)
    best = predict(model, images[:1])[0]
    assert (result.scores[0] >= best.scores[0]) and not result.scores[:5].equal(best.scores[:5])


def test_saved_weights(cfg, model, images, tmp_path):
    torch.save(model.state_dict(), tmp_path / 'weights.pth')
    other = MODELS.build(cfg.model).eval()
    other.load_state_dict(torch.load(tmp_path / 'weights.pth'), strict=True)
    for actual, expected in zip(predict(other, images), predict(model, images)):
        assert_same(actual, expected, tolerance=0)


def test_learns_two_images(cfg):
    """Twenty-five steps from the initial weights: every loss falls."""
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).train()
    model.init_weights()
    images = [torch.full((3, 64, 64), 60, dtype=torch.uint8) for _ in range(2)]
    data = make_data(images)
    boxes = [(6, 10, 46, 54), (20, 16, 58, 60)]
    for image, sample, (x1, y1, x2, y2) in zip(images, data['data_samples'], boxes):
        image[sample.gt_instances.labels, y1:y2, x1:x2] = 230
        sample.gt_instances.bboxes = torch.tensor([[x1, y1, x2, y2]], dtype=torch.float32)
    optimizer, logs = torch.optim.AdamW(model.parameters(), lr=2e-3), []
    for _ in range(25):
        loss, log = model.parse_losses(model(**model.data_preprocessor(data, training=True), mode='loss'))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        logs.append({name: value.item() for name, value in log.items()})
    first, last = logs[0], logs[-1]
    assert last['loss'] < first['loss'] / 2
    assert len(first) == 7 and all(last[name] < 0.9 * first[name] for name in first), (first, last)


@pytest.mark.parametrize(
    'backbone, counts',
    [
        ('r50', (23_508_032, 7_999_488)),
        ('swin_tiny', (27_520_506, 4_476_928)),
        ('focal_tiny', (28_341_852, 4_476_928)),
    ],
)
def test_parameters(backbone, counts, monkeypatch):
    """Of backbone and neck; the head is the released one. With ResNet-50 that makes 38.7 million."""
    monkeypatch.setenv('FOCAL_TINY', 'none')
    init_default_scope('mmdet')
    model = MODELS.build(Config.fromfile(CONFIGS / f'reppointsv2_{backbone}_3x.py').model)
    assert tuple(sum(p.numel() for p in part.parameters()) for part in (model.backbone, model.neck)) == counts
    assert sum(p.numel() for p in model.bbox_head.parameters()) == 7_210_442
    assert sum(p.numel() for p in model.parameters()) == sum(counts) + 7_210_442
