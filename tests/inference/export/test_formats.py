"""Backbones and segmentors, in all formats."""

import pytest
import torch
from export_models import build
from mmcv.ops import batched_nms
from torch import nn

from mmfocal.engine.command_line import read_config
from mmfocal.errors import CheckpointError, ConfigError, DataError, MissingFileError
from mmfocal.inference.export import ExportedModel, export_model
from mmfocal.inference.export.comparison import make_image
from mmfocal.inference.export.graph import build_graph
from mmfocal.inference.export.metadata import default_size, read_preprocessing
from mmfocal.inference.export.nms import keep_best
from mmfocal.inference.export.portable_layers import AdaptiveAvgPool


@pytest.fixture(scope='module')
def retinanet():
    return build('retinanet_focal_nano_shapes')


@pytest.fixture(scope='module')
def upernet():
    return build('upernet_focal_nano_shapes')


def outputs(model, image, **options):
    with torch.no_grad():
        return build_graph(model, **options)(image)


@pytest.mark.parametrize(
    'options',
    [dict(border='mask', focal_levels=(3, 2, 1, 2)), pytest.param(dict(conv_embed=True), marks=pytest.mark.slow)],
)
def test_a_backbone_takes_images_of_any_size(options, tmp_path):
    model, cfg = build('retinanet_focal_nano_shapes', **options)
    export_model(model, cfg, tmp_path / 'model.onnx', size=(64, 64), part='backbone', dynamic=True)
    exported = ExportedModel(tmp_path / 'model.onnx')
    for shape in ((1, 3, 33, 40), (2, 3, 150, 71), (1, 3, 224, 448)):
        image = make_image(shape, seed=7, raw=False)
        for found, wanted in zip(exported(image).values(), outputs(model, image, part='backbone'), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', ['upernet_focal_nano_shapes', 'semantic_fpn_focal_nano_shapes'])
def test_segmentors_of_any_size(name, tmp_path):
    model, cfg = build(name)
    export_model(model, cfg, tmp_path / 'model.onnx', size=(64, 64), dynamic=True)
    image = make_image((2, 3, 80, 112), seed=7, raw=False)
    (wanted,) = outputs(model, image)
    assert wanted.shape[2:] == (80, 112)
    torch.testing.assert_close(ExportedModel(tmp_path / 'model.onnx')(image)['logits'], wanted, rtol=1e-4, atol=1e-4)
    (labels,) = outputs(model, image, label_map=True)
    assert torch.equal(labels, wanted.argmax(1))


@pytest.mark.slow
def test_torch_export_of_a_backbone(retinanet, tmp_path):
    model, cfg = retinanet
    report = export_model(
        model, cfg, tmp_path / 'model.pt2', format='torch-export', size=(64, 64), part='backbone', dynamic=True
    )
    assert report.shapes == [(1, 3, 64, 64), (2, 3, 64, 64)]
    exported = ExportedModel(tmp_path / 'model.pt2')
    assert exported.output_names == ('stage1', 'stage2', 'stage3', 'stage4')
    assert exported(make_image((5, 3, 64, 64), 3, False))['stage1'].shape == (5, 16, 16, 16)
    with pytest.raises(DataError, match='batch×3×64×64, got 1×3×64×96'):
        exported(make_image((1, 3, 64, 96), 3, False))


@pytest.mark.slow
def test_torch_export_with_nms(retinanet, tmp_path):
    model, cfg = retinanet
    report = export_model(model, cfg, tmp_path / 'model.pt2', format='torch-export', size=(64, 64), with_nms=True)
    assert report.detections > 20


@pytest.mark.slow
def test_aot_inductor(retinanet, tmp_path):
    model, cfg = retinanet
    export_model(model, cfg, tmp_path / 'model.pt2', format='aot-inductor', size=(64, 64), part='backbone')
    exported = ExportedModel(tmp_path / 'model.pt2')
    image = make_image((1, 3, 64, 64), 9, False)
    for found, wanted in zip(exported(image).values(), outputs(model, image, part='backbone'), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_files_of_another_kind_are_one_sentence(tmp_path):
    with pytest.raises(MissingFileError, match='no such file'):
        ExportedModel(tmp_path / 'none.onnx')
    for name in ('text.onnx', 'text.pt2'):
        (tmp_path / name).write_text('no model')
        with pytest.raises(CheckpointError, match='cannot be loaded|not an exported model'):
            ExportedModel(tmp_path / name)
    torch.save({}, tmp_path / 'weights.pt2')
    with pytest.raises(CheckpointError, match='not an exported model'):
        ExportedModel(tmp_path / 'weights.pt2')


def test_adaptive_pooling_is_that_of_pytorch():
    for size in ((7, 10), (3, 3), (16, 5), (2, 1)):
        x = torch.randn(2, 4, *size)
        for bins in (1, 2, 3, 6):
            torch.testing.assert_close(AdaptiveAvgPool(bins)(x), nn.AdaptiveAvgPool2d(bins)(x))


@pytest.mark.parametrize('class_agnostic', [False, True])
def test_keep_best_is_batched_nms(class_agnostic):
    torch.manual_seed(0)
    boxes = torch.rand(2, 60, 4) * 50
    boxes[..., 2:] += boxes[..., :2]
    scores, labels = torch.rand(2, 60), torch.randint(3, (2, 60))
    cfg = dict(type='nms', iou_threshold=0.5, class_agnostic=class_agnostic)
    found = keep_best(boxes, scores, labels, cfg, 25)
    for i in range(2):
        dets, kept = batched_nms(boxes[i], scores[i], labels[i], dict(cfg))
        count = min(25, len(kept))
        torch.testing.assert_close(found[0][i, :count], dets[:count, :4])
        torch.testing.assert_close(found[1][i, :count], dets[:count, 4])
        assert torch.equal(found[2][i, :count], labels[i, kept[:count]])
        assert (found[2][i, count:] == -1).all() and not found[1][i, count:].any()


def test_size_and_preprocessing_come_from_the_config(retinanet, upernet):
    assert default_size(retinanet[0], read_config('retinanet_focal_tiny_1x')) == (800, 1344)
    assert default_size(*upernet) == (128, 128)  # crops
    with pytest.raises(ConfigError, match='pass --size HEIGHT WIDTH'):
        default_size(*retinanet)  # whose pipeline takes images as they are
    found = read_preprocessing(*retinanet)
    assert found['to_rgb'] and found['pad_size_divisor'] == 4 and len(found['mean']) == 3
    assert 'resize' not in found
    found = read_preprocessing(retinanet[0], read_config('retinanet_focal_tiny_1x'))
    assert found['resize'] == dict(scale=[1333, 800], keep_ratio=True)
