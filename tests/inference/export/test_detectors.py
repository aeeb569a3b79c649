"""Detectors: their graphs find what MMDetection's own `predict` finds, in ONNX too."""

import pytest
import torch
from export_models import build, predict

from mmfocal.errors import ConfigError, DataError, SavingError
from mmfocal.inference.export import ExportedModel, export_model, exporter
from mmfocal.inference.export.comparison import make_image
from mmfocal.inference.export.graph import build_graph
from mmfocal.inference.export.metadata import read_metadata

NAMES = ['retinanet_focal_nano_shapes', 'atss_focal_nano_shapes', 'mask_rcnn_focal_nano_shapes']
NAMES += ['cascade_mask_rcnn_focal_nano_shapes']


@pytest.fixture(scope='module')
def retinanet():
    return build('retinanet_focal_nano_shapes')


def assert_same_detections(found: dict, wanted: list[dict]) -> None:
    for i, expected in enumerate(wanted):
        count = len(expected['scores'])
        assert count == (found['labels'][i] >= 0).sum()
        for key in ('boxes', 'scores'):
            torch.testing.assert_close(found[key][i, :count], expected[key], rtol=1e-4, atol=1e-4)
        assert torch.equal(found['labels'][i, :count], expected['labels'])


@pytest.mark.parametrize('name', NAMES)
def test_a_graph_finds_what_predict_finds(name):
    model, _ = build(name)
    image = make_image((2, 3, 64, 96), seed=5, raw=False)
    wanted = predict(model, image)
    assert all(len(one['scores']) > 5 for one in wanted)
    graph = build_graph(model, with_nms=True)
    with torch.no_grad():
        assert_same_detections(dict(zip(graph.output_names, graph(image))), wanted)


def test_onnx_finds_what_predict_finds_in_images_of_any_size(retinanet, tmp_path):
    model, cfg = retinanet
    report = export_model(model, cfg, tmp_path / 'model.onnx', size=(64, 64), with_nms=True, dynamic=True)
    assert report.detections > 20 and len(report.shapes) == 4
    exported = ExportedModel(tmp_path / 'model.onnx')
    assert exported.input_shape == ['batch', 3, 'height', 'width']
    image = make_image((2, 3, 96, 64), seed=5, raw=False)
    assert_same_detections(exported(image), predict(model, image))
    assert read_metadata(exported.metadata, 'classes')[0] == 'circle'
    assert read_metadata(exported.metadata, 'preprocessing')['to_rgb'] is True


def test_mask_rcnn_in_onnx(tmp_path):
    model, cfg = build('mask_rcnn_focal_nano_shapes')
    report = export_model(model, cfg, tmp_path / 'model.onnx', size=(64, 64))
    assert report.detections > 5
    exported = ExportedModel(tmp_path / 'model.onnx')
    image = make_image((1, 3, 64, 64), seed=5, raw=False)
    found = exported(image)
    assert_same_detections(found, predict(model, image))
    assert found['masks'].shape[:2] == found['labels'].shape and found['masks'].max() <= 1
    with pytest.raises(DataError, match=r'it takes images of shape 1×3×64×64, got 1×3×64×96'):
        exported(make_image((1, 3, 64, 96), seed=5, raw=False))


def test_float16_and_preprocessing_in_the_graph(retinanet, tmp_path):
    model, cfg = retinanet
    options = dict(size=(64, 64), half=True, with_preprocessing=True)
    report = export_model(model, cfg, tmp_path / 'model.onnx', **options)
    assert set(report.differences) == {'boxes', 'scores'} and report.differences['boxes'][0] > 1e-5
    image = make_image((1, 3, 64, 64), seed=5, raw=True)  # BGR, 0 to 255
    prepared = model.data_preprocessor(dict(inputs=[image[0]], data_samples=None))['inputs']
    with torch.no_grad():
        boxes, scores = build_graph(model)(prepared)
    found = ExportedModel(tmp_path / 'model.onnx')(image)
    assert (found['boxes'] - boxes).abs().max() < 0.03 * boxes.max()
    assert (found['scores'] - scores).abs().max() < 0.01


def test_a_difference_is_an_error_and_leaves_no_file(retinanet, tmp_path, monkeypatch):
    model, cfg = retinanet

    def write(graph, *args):
        with torch.no_grad():
            graph.core.model.bbox_head.retina_cls.bias += 0.01
        original(graph, *args)

    original = exporter.FORMATS['onnx'].write
    monkeypatch.setattr(exporter.FORMATS['onnx'], 'write', write)
    with pytest.raises(SavingError, match='scores differs from PyTorch by .* nothing was written'):
        export_model(model, cfg, tmp_path / 'model.onnx', size=(64, 64))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    'name, options, message',
    [
        ('sparse_rcnn_focal_nano_shapes', {}, 'SparseRCNN cannot be exported'),
        ('reppointsv2_focal_nano_shapes', {}, 'RepPointsV2Head cannot be exported'),
        ('mask_rcnn_focal_nano_shapes', dict(format='torch-export'), 'MaskRCNN is exported as onnx only'),
        ('retinanet_focal_nano_shapes', dict(format='torch-export', half=True), '--fp16: only ONNX'),
        ('retinanet_focal_nano_shapes', dict(part='backbone', with_nms=True), '--with-nms: a backbone predicts'),
        ('retinanet_focal_nano_shapes', dict(label_map=True), '--label-map: RetinaNet predicts no logits'),
        ('retinanet_focal_nano_shapes', dict(size=(0, 64)), '--size and --batch-size must be positive'),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(name, options, message, tmp_path):
    model, cfg = build(name)
    with pytest.raises(ConfigError, match=message) as error:
        export_model(model, cfg, tmp_path / 'model.onnx', **dict(size=(64, 64)) | options)
    assert len(str(error.value)) <= 120
    assert not list(tmp_path.iterdir())


def test_shifted_windows_have_one_size(tmp_path):
    model, cfg = build('retinanet_focal_nano_shapes', use_shift=True)
    next(module for module in model.modules() if hasattr(module, 'shifted_layout')).shift = 3
    with pytest.raises(ConfigError, match='--dynamic: shifted windows depend on the size'):
        export_model(model, cfg, tmp_path / 'model.onnx', size=(64, 64), dynamic=True)
    report = export_model(model, cfg, tmp_path / 'model.onnx', size=(64, 64), part='backbone')
    assert len(report.differences) == 4
