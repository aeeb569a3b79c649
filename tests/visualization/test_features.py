"""mmfocal visualize features: principal components, and activation maps of what a network predicts."""

import importlib.util

import cv2
import numpy as np
import pytest
import torch
from networks import save_classifier, save_network

from mmfocal import cli
from mmfocal.visualization import features
from mmfocal.visualization.features import ScoreOf, activation_maps, feature_maps, principal_components
from mmfocal.visualization.network import open_network, prepare_image, read_image

CONFIGS = [
    'atss_focal_nano_shapes',
    'mask_rcnn_focal_nano_shapes',
    'semantic_fpn_focal_nano_shapes',
    *(
        pytest.param(f'{name}_focal_nano_shapes', marks=pytest.mark.slow)
        for name in ('retinanet', 'reppointsv2', 'sparse_rcnn', 'upernet')  # the last without a neck
    ),
]


def lively(model):
    """Makes an untrained detector certain of many things."""
    for name, weight in model.named_parameters():
        if weight.dim() > 1 and any(part in name for part in ('cls', 'conv_seg')):
            torch.nn.init.normal_(weight, std=0.3)


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    """Returns the checkpoint of a config, which is made once."""
    folder, made = tmp_path_factory.mktemp('networks'), {}

    def get(name):
        if name not in made:
            made[name] = save_network(folder / f'{name}.pth', name, lively)
        return made[name]

    return get


@pytest.fixture
def image_path(shapes):
    return str(shapes / 'val2017/000000000002.jpg')


def load(checkpoint, path):
    network = open_network(str(checkpoint), device='cpu')
    return network, prepare_image(network, path, read_image(path))


@pytest.mark.parametrize('name', CONFIGS)
def test_maps_of_all_kinds_of_networks(name, checkpoints, image_path):
    network, image = load(checkpoints(name), image_path)
    found = activation_maps(network, image, 2)
    assert 1 <= len(found) <= 2
    for one in found:
        assert one.heat.shape == image.size and one.heat.min() >= 0 and np.isfinite(one.heat).all()
        assert one.heat.max() > 0 and (one.box is None) == hasattr(network.model, 'decode_head')
    maps = feature_maps(network, image)
    assert list(maps) == ['backbone'] if name.startswith('upernet') else ['backbone', 'neck']
    assert [tuple(of.shape) for of in maps['backbone']] == [(24, 16, 16), (48, 8, 8), (96, 4, 4), (192, 2, 2)][
        4 - len(maps['backbone']) :
    ]


def test_a_map_is_gradient_times_activation(checkpoints, image_path):
    """Of a segmentor, computed here with autograd alone."""
    network, image = load(checkpoints('semantic_fpn_focal_nano_shapes'), image_path)
    (found,) = activation_maps(network, image, 1)
    model = network.model
    levels = [level.detach().requires_grad_() for level in model.extract_feat(image.inputs)]
    logits = model.decode_head(tuple(levels))
    logits = torch.nn.functional.interpolate(logits, image.size, mode='bilinear', align_corners=model.align_corners)[0]
    predicted = logits.argmax(0)
    label = predicted.flatten().bincount().argmax()
    gradients = torch.autograd.grad(logits[label][predicted == label].mean(), levels)
    expected = sum(
        torch.nn.functional.interpolate(
            (level * gradient).sum(1, keepdim=True).relu().detach(), image.size, mode='bilinear', align_corners=False
        )
        for level, gradient in zip(levels, gradients)
    )[0, 0]
    assert found.title.startswith(model.dataset_meta['classes'][label])
    assert found.heat == pytest.approx(expected.numpy(), rel=1e-3, abs=1e-6 * float(expected.max()))


def test_scores_that_the_head_detaches(checkpoints, image_path):
    """A detection's score has a gradient, and the detections are the same."""
    network, image = load(checkpoints('atss_focal_nano_shapes'), image_path)
    score_of = ScoreOf(network.model, image, network.model.neck)
    usual = score_of.detections(image.inputs)
    score_of.attached = True
    attached = score_of.detections(image.inputs)
    assert not usual[1].requires_grad and attached[1].requires_grad
    for one, other in zip(usual, attached):
        torch.testing.assert_close(one, other.detach(), rtol=1e-4, atol=1e-4)  # other linear layers in inference
    score = attached[1][0]
    step = torch.zeros_like(image.inputs).requires_grad_()
    boxes, scores, _ = score_of.detections(image.inputs + step)
    (gradient,) = torch.autograd.grad(scores[0], step)
    with torch.no_grad():
        moved = score_of.detections(image.inputs + 1e-3 * gradient / gradient.norm())[1][0]
    assert float(moved - score.detach()) == pytest.approx(1e-3 * float(gradient.norm()), rel=0.1)


def test_activation_maps_of_a_class(checkpoints, image_path):
    network, image = load(checkpoints('atss_focal_nano_shapes'), image_path)
    for label, name in enumerate(network.model.dataset_meta['classes']):
        assert all(one.title.startswith(name) for one in activation_maps(network, image, 2, label))


def test_principal_components():
    """Of a map of three known components in ten channels."""
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(10, 3)))
    weights = rng.normal(size=(3, 300)) * [[9], [3], [1]]
    maps = torch.from_numpy(basis @ weights + 5).view(10, 15, 20)
    colours, share = principal_components(maps)
    assert colours.shape == (15, 20, 3) and share == pytest.approx(1)
    assert colours.min() == 0 and colours.max() == 1
    for i in range(3):
        assert abs(np.corrcoef(colours[..., i].ravel(), weights[i])[0, 1]) > 0.95
    flat, share = principal_components(torch.ones(2, 4, 5))
    assert flat.shape == (4, 5, 3) and np.isfinite(flat).all() and share == 1


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr('sys.argv', ['mmfocal', 'visualize', 'features', *map(str, arguments)])
        capsys.readouterr()
        try:
            cli.main()
        except SystemExit as stop:
            assert stop.code == 1
        return capsys.readouterr()

    return run


def test_the_command(run, checkpoints, image_path, monkeypatch):
    figures, draw = [], features.draw_features
    monkeypatch.setattr(features, 'draw_features', lambda *args: figures.append(draw(*args)) or figures[-1])
    out, error = run(checkpoints('atss_focal_nano_shapes'), image_path, '--cams', 2)
    assert 'work_dirs/features/000000000002.png: 8 maps of backbone, neck; activation maps: ' in out, error
    titles = [axis.get_title() for axis in figures[0].axes]
    assert (
        titles[1].startswith('backbone 0: 24 channels, 16 × 16, ') and sum('activation' in one for one in titles) == 2
    )
    assert cv2.imread('work_dirs/features/000000000002.png').std() > 20


def test_the_command_with_a_bare_backbone(run, image_path, tmp_path):
    out, error = run(save_classifier(tmp_path / 'nano.pth'), image_path, '--out', 'a.jpg')
    assert 'a.jpg: 4 maps of backbone; activation maps: none' in out, error


def test_mistakes_get_one_sentence(run, checkpoints, image_path, monkeypatch):
    saved = checkpoints('atss_focal_nano_shapes')
    find_spec = importlib.util.find_spec
    for arguments, sentence in (
        (['--class', 'cat'], '--class cat: there is no such class; choose one of circle, square, triangle, cross'),
        (['--out', 'a.txt'], '--out: matplotlib cannot write a.txt'),
        (['--cams', '1'], '--cams: package captum is not installed; pip install "mmfocal[visualization]"'),
    ):
        if '--cams' in arguments:
            monkeypatch.setattr(features, 'find_spec', lambda name: None if name == 'captum' else find_spec(name))
        _, error = run(saved, image_path, *arguments)
        assert error.splitlines()[-1].startswith('error: ') and sentence in error and 'Traceback' not in error
    out, error = run(saved, image_path, '--cams', 0)
    assert 'activation maps: none' in out, error
