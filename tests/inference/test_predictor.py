"""`Predictor`: detection, instance, semantic and panoptic models, all kinds of input, batches, pictures."""

import numpy as np
import pytest
import supervision
import torch
from checkpoints import CLASSES, low_threshold, panoptic_config, save_checkpoint
from mmdet.evaluation import INSTANCE_OFFSET
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData
from PIL import Image

from mmfocal import Predictor
from mmfocal.datasets.shapes import make_image
from mmfocal.engine import read_config
from mmfocal.errors import ConfigError, DataError, MissingFileError
from mmfocal.inference import load_model
from mmfocal.inference.results import Prediction, to_prediction


@pytest.fixture(scope='module')
def detector(tmp_path_factory):
    path = tmp_path_factory.mktemp('detector') / 'epoch_1.pth'
    return save_checkpoint(path, low_threshold('atss_focal_nano_shapes'), dict(classes=CLASSES))


@pytest.fixture(scope='module')
def predictor(detector):
    return Predictor(detector, score_thr=0)


@pytest.fixture(scope='module')
def images():
    """Five images of two sizes, RGB."""
    rng = np.random.default_rng(0)
    return [make_image(rng, size)[0][..., ::-1].copy() for size in ((64, 64), (80, 80), (64, 64), (64, 64), (80, 80))]


def same(one, other, atol=1e-4):
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
    np.testing.assert_allclose(one.boxes, other.boxes, atol=atol)


def test_detection(predictor, images):
    found = predictor(images[1])
    assert len(found) == 7 and found.size == (80, 80) and found.classes == predictor.classes == CLASSES
    assert found.boxes.dtype == np.float32 and found.boxes.shape == (7, 4) and found.scores.dtype == np.float32
    assert found.labels.dtype == np.int64 and found.names == [CLASSES[label] for label in found.labels]
    assert (np.diff(found.scores) <= 0).all() and (found.boxes[:, :2] <= found.boxes[:, 2:]).all()
    assert found.masks is found.label_map is found.panoptic is None
    assert len(predictor(images[1], score_thr=1)) == 0
    middle = float(found.scores[3])
    assert len(predictor(images[1], score_thr=middle)) == 4


def test_it_predicts_what_testing_does(detector, predictor, images, shapes):
    """The data set's own pipeline, with the image read from its file."""
    from mmdet.registry import DATASETS
    from mmengine.registry import init_default_scope

    cfg = low_threshold('atss_focal_nano_shapes')
    init_default_scope('mmdet')
    settings = cfg.test_dataloader.dataset
    settings.update(data_root=str(shapes), lazy_init=False)
    dataset = DATASETS.build(settings)
    model, _ = load_model(detector)
    for i in range(2):
        data = dataset[i]
        with torch.no_grad():
            sample = model.test_step(dict(inputs=[data['inputs']], data_samples=[data['data_samples']]))[0]
        same(predictor(sample.img_path), to_prediction(sample, model.dataset_meta, 0))


def test_kinds_of_input(tmp_path, predictor, images):
    rgb = images[0]
    expected = predictor(rgb)
    Image.fromarray(rgb).save(tmp_path / 'a.png')
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(rgb).transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / 'turned.png', exif=exif)
    alpha = np.dstack([rgb, np.full(rgb.shape[:2], 99, np.uint8)])
    deep = rgb.astype(np.uint16) * 257
    for image in (
        str(tmp_path / 'a.png'),
        tmp_path / 'a.png',
        Image.fromarray(rgb),
        alpha,
        deep,
        rgb[:, ::-1][:, ::-1],
    ):
        same(predictor(image), expected, atol=0)
    same(predictor(Image.open(tmp_path / 'turned.png')), expected, atol=0)
    assert not np.array_equal(predictor(rgb[..., ::-1]).scores, expected.scores)  # RGB is not BGR
    with pytest.raises(MissingFileError, match='absent.png: no such image'):
        predictor('absent.png')
    (tmp_path / 'text.png').write_text('no image')
    for image, words in ((tmp_path / 'text.png', 'not an image'), (rgb / 255, 'float64'), (3, 'int is no image')):
        with pytest.raises(DataError, match=words):
            predictor(image)


def test_a_batch_predicts_what_single_images_do(detector, predictor, images):
    single = [predictor(image) for image in images]
    for batch_size in (2, 5):
        predictions = Predictor(detector, score_thr=0, batch_size=batch_size)(images)
        assert isinstance(predictions, list) and [one.size for one in predictions] == [one.size for one in single]
        for one, other in zip(predictions, single):
            same(one, other)
    assert predictor([]) == [] and len(predictor(tuple(images[:1]))) == 1
    with pytest.raises(ConfigError, match='batch_size'):
        Predictor(detector, batch_size=0)


def test_instances(tmp_path, images):
    saved = save_checkpoint(tmp_path / 'a.pth', low_threshold('mask_rcnn_focal_nano_shapes'), dict(classes=CLASSES))
    found = Predictor(saved, score_thr=0)(images[1])
    assert len(found) == 7 and found.masks.shape == (7, 80, 80) and found.masks.dtype == bool
    detections = found.to_supervision()
    assert isinstance(detections, supervision.Detections) and detections.mask.shape == (7, 80, 80)
    np.testing.assert_array_equal(detections.xyxy, found.boxes)
    assert detections.data['class_name'].tolist() == found.names


def test_semantics(tmp_path, images):
    classes = ('background', *CLASSES)
    predictor = Predictor(save_checkpoint(tmp_path / 'a.pth', 'upernet_focal_nano_shapes', dict(classes=classes)))
    found = predictor(images[1])
    assert found.label_map.shape == (80, 80) and found.label_map.dtype == np.uint8 and found.label_map.max() < 5
    assert len(found) == 0 and found.boxes.shape == (0, 4)
    batch = Predictor(tmp_path / 'a.pth', batch_size=5)(images)
    assert [one.label_map.shape for one in batch] == [image.shape[:2] for image in images]
    assert (batch[1].label_map == found.label_map).mean() > 0.99
    with pytest.raises(ConfigError, match='no detections'):
        found.to_supervision()
    assert predictor.draw(images[1], found).shape == (480, 480, 3)


def test_panoptics(tmp_path, images):
    meta = dict(classes=CLASSES, thing_classes=CLASSES[:2], stuff_classes=CLASSES[2:])
    predictor = Predictor(save_checkpoint(tmp_path / 'a.pth', panoptic_config(), meta))
    found = predictor(images[1])
    assert found.panoptic.shape == (80, 80) and found.panoptic.dtype == np.int32
    assert set(np.unique(found.panoptic)) - {0} == {segment.id for segment in found.segments}
    for segment in found.segments:
        assert segment.area == (found.panoptic == segment.id).sum() and segment.name == CLASSES[segment.label]
        assert segment.is_thing == (segment.label < 2)
    assert len(found.to_supervision()) == len(found.segments)
    assert predictor.draw(images[1], found).shape == (480, 480, 3)


def test_panoptic_segments_and_instances():
    """Two things of a class, stuff, and pixels without a class; instances beside them as Mask2Former has them."""
    values = np.array([[0 + INSTANCE_OFFSET, 0 + 2 * INSTANCE_OFFSET], [3, 4]])
    instances = InstanceData(
        bboxes=torch.tensor([[0, 0, 1, 1], [1.0, 0, 2, 1]]),
        scores=torch.tensor([0.2, 0.7]),
        labels=torch.tensor([0, 1]),
        masks=torch.tensor([[[1, 0], [0, 0]], [[0, 1], [0, 0]]]).bool(),
    )
    sample = DetDataSample(
        pred_panoptic_seg=PixelData(sem_seg=torch.tensor(values)[None]),
        pred_instances=instances,
        metainfo=dict(ori_shape=(2, 2)),
    )
    found = to_prediction(sample, dict(classes=CLASSES, thing_classes=CLASSES[:2]), 0.1)
    assert [(s.label, s.is_thing, s.area) for s in found.segments] == [(3, False, 1), (0, True, 1), (0, True, 1)]
    np.testing.assert_array_equal(found.panoptic, [[2, 3], [1, 0]])
    assert found.names == ['square', 'circle'] and found.masks[0, 0, 1] and found.masks[1, 0, 0]


def test_pictures(tmp_path, predictor, images):
    mask = np.zeros((1, 80, 80), bool)
    mask[0, 20:40, 20:40] = True
    box = np.array([[20, 20, 40, 40]], np.float32)
    one = Prediction((80, 80), CLASSES, box, np.ones(1, np.float32), np.zeros(1, np.int64))
    image = np.full((80, 80, 3), 30, np.uint8)
    picture = predictor.draw(image, one, tmp_path / 'a.png')
    assert picture.shape == (480, 480, 3)  # enlarged six times
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / 'a.png')), picture)
    changed = (picture != 30).any(2)
    rows, columns = changed.any(1).nonzero()[0], changed.any(0).nonzero()[0]
    np.testing.assert_allclose([columns[0], rows[0], columns[-1], rows[-1]], [120, 120, 240, 240], atol=4)
    assert not changed[200:230, 200:230].any()
    masked = predictor.draw(image, Prediction((80, 80), CLASSES, box, one.scores, one.labels, masks=mask))
    assert (masked != 30).any(2)[200:230, 200:230].all()
    np.testing.assert_array_equal(
        masked, predictor.draw(image, Prediction((80, 80), CLASSES, box, one.scores, one.labels, masks=mask))
    )
    empty = predictor.draw(image, Prediction((80, 80), CLASSES))
    assert (empty == 30).all()
    with pytest.raises(ConfigError, match='prediction is of'):
        predictor.draw(images[0], one)
    with pytest.raises(ConfigError, match='no such format'):
        predictor.draw(image, one, tmp_path / 'a.xyz')


def test_two_models_of_different_libraries_in_one_process(tmp_path, predictor, images):
    before = predictor(images[0])
    Predictor(save_checkpoint(tmp_path / 'a.pth', 'semantic_fpn_focal_nano_shapes'))(images[0])
    same(predictor(images[0]), before, atol=0)


def test_pipelines_without_image_files_are_refused(tmp_path):
    for change in (
        lambda steps: steps[0].update(color_type='unchanged'),
        lambda steps: steps.pop(0),
        lambda steps: steps.clear(),
    ):
        cfg = read_config('atss_focal_nano_shapes')
        change(cfg.test_dataloader.dataset.pipeline)
        with pytest.raises(ConfigError, match='a.pth: its test pipeline must load images'):
            Predictor(save_checkpoint(tmp_path / 'a.pth', cfg))
