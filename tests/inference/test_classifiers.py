"""`mmfocal predict`, `Predictor` and `visualize attention` with a checkpoint of a classifier."""

import csv
import json
import sys

import cv2
import numpy as np
import pytest
import torch
from checkpoints import save_checkpoint
from mmengine.config import Config

from mmfocal.cli import main
from mmfocal.errors import CheckpointError, ConfigError
from mmfocal.inference import Predictor, load_model
from mmfocal.inference.export import ExportedModel

CLASSES = ('ant', 'bee', 'cat', 'dog', 'eel', 'fox')


def config(**model):
    """A Focal classifier of 6 classes with MMPretrain's test pipeline, and batch augmentations."""
    backbone = dict(
        type='FocalTransformer',
        arch=dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2)),
        out_indices=(3,),
        init_cfg=dict(type='Pretrained', checkpoint='none'),
    )
    settings = dict(
        type='ImageClassifier',
        data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True),
        backbone=backbone,
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead', in_channels=64, num_classes=6, loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1)
        ),
        train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
    )  # fmt: skip
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='ResizeEdge', scale=73, edge='short', backend='pillow', interpolation='bicubic'),
        dict(type='CenterCrop', crop_size=64),
        dict(type='PackInputs'),
    ]
    dataset = dict(type='CustomDataset', data_root='data/insects', pipeline=pipeline)
    return Config(
        dict(default_scope='mmpretrain', model=settings | model, test_dataloader=dict(dataset=dataset))
    )  # fmt: skip


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('classifier')
    save_checkpoint(root / 'classifier.pth', config(), dict(classes=CLASSES))
    rng = np.random.default_rng(0)
    for name in ('one/a.png', 'one/b.png', 'two/a.png'):
        (root / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(root / name), rng.integers(0, 255, (80, 100, 3), np.uint8))
    return root


def run(monkeypatch, *args):
    monkeypatch.setattr(sys, 'argv', ['mmfocal', *map(str, args)])
    main()


def test_predictor(root):
    predictor = Predictor(root / 'classifier.pth')
    found = predictor(str(root / 'one/a.png'))
    assert found.is_classification and len(found) == 0 and found.size == (80, 100)
    assert sorted(found.names) == sorted(CLASSES) and np.all(np.diff(found.scores) <= 0)
    assert found.scores.sum() == pytest.approx(1, abs=1e-5)
    with pytest.raises(ConfigError, match='a classifier has no detections'):
        pytest.importorskip('supervision') and found.to_supervision()
    batch = predictor([str(root / name) for name in ('one/a.png', 'two/a.png')])
    np.testing.assert_allclose(batch[0].scores, found.scores, atol=1e-6)


def test_predictions_are_those_of_testing(root):
    """The same logits as from a file through the test pipeline of the config."""
    from mmcv.transforms import Compose
    from mmengine.registry import init_default_scope

    model, _ = load_model(root / 'classifier.pth')
    init_default_scope('mmpretrain')
    data = Compose(config().test_dataloader.dataset.pipeline)(dict(img_path=str(root / 'two/a.png')))
    with torch.no_grad():
        sample = model.test_step(dict(inputs=[data['inputs']], data_samples=[data['data_samples']]))[0]
    found = Predictor(root / 'classifier.pth')(str(root / 'two/a.png'))
    assert found.labels[0] == int(sample.pred_label)
    np.testing.assert_allclose(found.scores, sample.pred_score.sort(descending=True).values, atol=1e-6)


def test_files(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(root)
    run(monkeypatch, 'predict', 'classifier.pth', 'one', 'two', '--out', tmp_path, '--top-k', 3, '--batch-size', 2)
    printed = capsys.readouterr().out
    assert 'predictions.json: 9\n' in printed and 'predictions.csv: 3\n' in printed and 'pictures/: 3\n' in printed
    expected = Predictor('classifier.pth')('two/a.png')
    images = json.loads((tmp_path / 'images.json').read_text())
    assert images['categories'][2] == dict(id=3, name='cat')
    results = [one for one in json.loads((tmp_path / 'predictions.json').read_text()) if one['image_id'] == 3]
    assert [one['category_id'] - 1 for one in results] == expected.labels[:3].tolist()
    rows = list(csv.reader((tmp_path / 'predictions.csv').open()))
    assert rows[0] == ['file', 'class_1', 'score_1', 'class_2', 'score_2', 'class_3', 'score_3']
    assert rows[3][:2] == ['two/a.png', expected.names[0]] and float(rows[3][2]) == results[0]['score']
    plain = cv2.imread('two/a.png')
    picture = cv2.imread(str(tmp_path / 'pictures/a_2.jpg'))
    assert picture.shape == (320, 400, 3) and abs(picture.astype(int) - cv2.resize(plain, (400, 320))).max() > 50
    with pytest.raises(SystemExit):
        run(monkeypatch, 'predict', 'classifier.pth', 'one', '--out', tmp_path, '--top-k', 0)
    assert 'error: --top-k: must be at least 1, got 0' in capsys.readouterr().err


@pytest.mark.parametrize('part', [
    dict(backbone=dict(type='TIMMBackbone', model_name='resnet18', pretrained=True)),
    dict(type='TimmClassifier', model_name='resnet18', pretrained=True),
    dict(type='HuggingFaceClassifier', model_name='resnet', pretrained=True),
])  # fmt: skip
def test_configs_of_checkpoints_download_nothing(tmp_path, part):
    cfg = config()
    path = tmp_path / 'evil.pth'
    settings = cfg.to_dict()
    settings['model'].update(part)
    save_checkpoint(path, cfg, text=Config(settings).pretty_text)
    with pytest.raises(CheckpointError, match='which could load files or run code'):
        load_model(path)


def test_attention(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(root)
    out = tmp_path / 'attention.png'
    run(monkeypatch, 'visualize', 'attention', 'classifier.pth', 'one/a.png', '--out', out, '--at', '10,50')
    assert 'token (2, 12) of 16 × 16' in capsys.readouterr().out  # of the crop of 64 px, which the network sees
    assert cv2.imread(str(out)) is not None and cv2.imread(str(tmp_path / 'attention_mass.png')) is not None
    with pytest.raises(SystemExit):
        run(monkeypatch, 'visualize', 'attention', 'classifier.pth', 'one/a.png', '--out', out, '--at', '90,50')
    assert 'outside the image of 64 × 64 pixels' in capsys.readouterr().err


def test_features(root, tmp_path, monkeypatch, capsys):
    """A classifier's activation map is its class activation map: linear weights of the class times the last map."""
    from mmfocal.visualization.features import activation_maps
    from mmfocal.visualization.network import open_network, prepare_image, read_image

    monkeypatch.chdir(root)
    run(monkeypatch, 'visualize', 'features', 'classifier.pth', 'one/a.png', '--out', tmp_path / 'features.png')
    best = Predictor('classifier.pth')('one/a.png')
    printed = capsys.readouterr().out
    assert '1 maps of backbone' in printed and f'activation maps: {best.names[0]} {best.scores[0]:.2f}' in printed
    network = open_network('classifier.pth')
    image = prepare_image(network, 'one/a.png', read_image('one/a.png'))
    (found,) = activation_maps(network, image, 1, label=2)
    with torch.no_grad():
        last = network.backbone(image.inputs)[-1]
        weights = network.model.head.fc.weight[2]
    expected = (last * weights[:, None, None].detach()).sum(1, keepdim=True).relu() / last[0, 0].numel()
    expected = torch.nn.functional.interpolate(expected, (64, 64), mode='bilinear')[0, 0]
    np.testing.assert_allclose(found.heat, expected, atol=1e-6)


def test_export(root, tmp_path, monkeypatch, capsys):
    """The file's logits are PyTorch's; what is prepared in the graph are images as OpenCV loads them."""
    out = tmp_path / 'classifier.onnx'
    run(monkeypatch, 'export', root / 'classifier.pth', '--out', out, '--with-preprocessing', '--dynamic')
    assert 'ImageClassifier' in (printed := capsys.readouterr().out) and 'logits: difference' in printed
    exported = ExportedModel(out)
    predictor = Predictor(root / 'classifier.pth')
    image = cv2.imread(str(root / 'one/b.png'))
    crop = predictor.pipeline(dict(img=image))['inputs'][None].float()
    logits = next(iter(exported(crop).values()))
    scores = torch.as_tensor(logits)[0].softmax(0)
    np.testing.assert_allclose(
        scores.sort(descending=True).values, predictor.predict_batch([image])[0].scores, atol=1e-4
    )
