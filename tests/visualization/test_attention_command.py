"""mmfocal visualize attention: pictures of the maps, for detectors and bare backbones; mistakes."""

import re

import cv2
import numpy as np
import pytest
import torch
from matplotlib.collections import PolyCollection
from networks import save_classifier, save_network

from mmfocal import cli
from mmfocal.models import FocalTransformer
from mmfocal.visualization.attention import attention_maps
from mmfocal.visualization.attention_plots import draw_attention
from mmfocal.visualization.network import open_network, prepare_image, read_image
from mmfocal.weights.architecture import find_backbone_arguments


@pytest.fixture(scope='module')
def detector(tmp_path_factory):
    return save_network(tmp_path_factory.mktemp('detector') / 'atss.pth', 'atss_focal_nano_shapes')


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
    return save_classifier(tmp_path_factory.mktemp('classifier') / 'nano.pth')


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command in this process; returns its output and error output."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr('sys.argv', ['mmfocal', 'visualize', 'attention', *map(str, arguments)])
        capsys.readouterr()
        try:
            cli.main()
        except SystemExit as stop:
            assert stop.code == 1
        return capsys.readouterr()

    return run


def test_a_detector(run, detector, shapes, tmp_path):
    image = shapes / 'val2017/000000000001.jpg'
    out, _ = run(detector, image, '--stage', 1, '--at', '10,40')
    assert 'work_dirs/attention/000000000001.png: stage 1, block 0, token (1, 5) of 8 × 8' in out
    lines = out.splitlines()
    assert re.split(r'\s{2,}', lines[0]) == ['block', 'own window', 'ring', 'pooled 1', 'of it padding', 'half within']
    assert [line.split()[0] for line in lines[1:6]] == ['0.0', '1.0', '2.0', '2.1', '3.0']
    for line in lines[1:6]:
        shares = [float(one[:-1]) for one in line.split()[1:4] if one != '–']  # no ring in the last stage
        assert sum(shares) == pytest.approx(100, abs=0.2)
    for name in ('000000000001.png', '000000000001_mass.png'):
        assert cv2.imread(f'work_dirs/attention/{name}').std() > 20


def test_a_bare_backbone(run, classifier, tmp_path):
    cv2.imwrite('photo.jpg', np.random.default_rng(0).integers(0, 255, (30, 60, 3), np.uint8))
    out, _ = run(classifier, 'photo.jpg', '--head', 'all', '--stage', 3, '--out', 'new/a.jpg')
    assert "border='wrap'" in out and 'new/a.jpg: stage 3, block 0, token (7, 3) of 14 × 7' in out
    assert cv2.imread('new/a.jpg') is not None and cv2.imread('new/a_mass.jpg') is not None
    network = open_network(str(classifier))
    image = prepare_image(network, 'photo.jpg', read_image('photo.jpg'))
    assert image.size == (224, 448) and image.inputs.shape == (1, 3, 224, 448)
    expected = FocalTransformer(
        arch=dict(embed_dims=16, depths=(1, 2, 1, 1), num_heads=(1, 2, 4, 8)), expand_sizes=(3, 3, 3, 0)
    ).eval()
    expected.load_state_dict(torch.load(classifier))
    with torch.no_grad():
        for ours, theirs in zip(network.backbone(image.inputs), expected(image.inputs)):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(conv_embed=True, layer_scale=1e-4, qkv_bias=False),
        dict(
            focal_levels=(3, 2, 1, 1), focal_windows=(5, 3, 3, 1), expand_sizes=(2, 0, 1, 3), window_size=(8, 7, 6, 5)
        ),
        dict(downsample='merge', focal_pool='mean', mlp_ratio=2.0, in_channels=4),
        dict(pre_norm=True, focal_levels=(1, 1, 1, 1)),
        dict(stem_blocks=0),
        dict(stem_blocks=2, conv_embed=True),
    ],
    ids=str,
)
def test_shapes_tell_the_architecture(options):
    arch = dict(embed_dims=16, depths=(1, 2, 1, 1), num_heads=(1, 2, 4, 8))
    weights = FocalTransformer(arch=arch, **options).state_dict()
    FocalTransformer(**find_backbone_arguments(weights)).load_state_dict(weights)


def test_a_backbone_with_a_config(run, classifier, shapes):
    """The config's backbone, pipeline and normalisation are used."""
    _, error = run(classifier, shapes / 'val2017/000000000001.jpg', '--config', 'atss_r_nano_shapes')
    assert 'it holds a backbone alone, and atss_r_nano_shapes has a ResNet' in error
    _, error = run(classifier, shapes / 'val2017/000000000001.jpg', '--config', 'atss_focal_nano_shapes')
    assert 'nano.pth does not fit this FocalTransformer' in error


def test_cells_are_the_keys(detector, shapes):
    """Each panel has the cells of its levels, coloured by their weights."""
    network = open_network(str(detector))
    path = str(shapes / 'val2017/000000000002.jpg')
    image = prepare_image(network, path, read_image(path))
    maps = attention_maps(network.backbone, image.inputs, 0, 0)
    figure = draw_attention('title', image.pixels, image.size, maps, None, (30, 30))
    regions, together, fine, pooled = figure.axes[:4]
    boxes = maps.boxes[maps.window[7, 7]]
    weights = maps.weights[0, :, 7, 7].mean(0)
    seen = ~boxes.isnan().any(1) & (boxes[:, 0] < 64) & (boxes[:, 1] < 64)

    def cells(axis):
        return [len(one.get_paths()) for one in axis.collections if isinstance(one, PolyCollection)]

    numbers = [int(seen[:169].sum()), int(seen[169:].sum())]
    assert cells(together) == numbers[::-1] and cells(fine) == numbers[:1] and cells(pooled) == numbers[1:]
    assert len(regions.images) == 1 and np.array_equal(regions.images[0].get_array(), image.pixels)
    heat = np.asarray(fine.images[1].get_array())
    left, top, right, bottom = boxes[3].int().tolist()
    drawn = heat[top:bottom, left:right]
    assert (drawn == drawn[0, 0]).all() and drawn[0, 0, 3] > 0
    order = weights[:169][seen[:169]].argsort()
    brightness = np.array([heat[int(y), int(x), :3].sum() for x, y in boxes[:169][seen[:169]][:, :2]])
    assert brightness[order[-20:]].mean() > brightness[order[:20]].mean()


@pytest.mark.parametrize(
    'arguments, sentence',
    [
        (['absent.pth', 'white.png'], 'absent.pth: there is no such checkpoint file'),
        (['CHECKPOINT', 'absent.png'], 'absent.png: no such image'),
        (['CHECKPOINT', 'text.png'], 'text.png: OpenCV cannot decode the image'),
        (['text.png', 'white.png'], 'text.png: truncated or not a checkpoint'),
        (['other.pth', 'white.png'], 'other.pth: it holds no Focal or Swin Transformer'),
        (['CHECKPOINT', 'white.png', '--at', '5'], '--at: write X,Y in pixels'),
        (['CHECKPOINT', 'white.png', '--at', '32,0'], '--at 32,0: it is outside the image of 32 × 24 pixels'),
        (['CHECKPOINT', 'white.png', '--stage', '4'], '--stage 4: the backbone has stages 0 to 3'),
        (['CHECKPOINT', 'white.png', '--block', '1'], '--block 1: stage 0 has blocks 0 to 0'),
        (['CHECKPOINT', 'white.png', '--head', '9'], '--head 9: the block has heads 0 to 0'),
        (['CHECKPOINT', 'white.png', '--head', 'best'], '--head: give a number from 0 to 0, all or mean'),
        (['CHECKPOINT', 'white.png', '--out', 'a.txt'], '--out: matplotlib cannot write a.txt'),
        (['CHECKPOINT', 'white.png', '--out', 'text.png/a.png'], 'text.png/a.png cannot be saved'),
        (['CHECKPOINT', 'white.png', '--device', 'abacus'], '--device: PyTorch cannot use abacus here'),
    ],
)
def test_mistakes_get_one_sentence(arguments, sentence, run, classifier, tmp_path):
    (tmp_path / 'text.png').write_text('not an image')
    cv2.imwrite('white.png', np.full((24, 32, 3), 255, np.uint8))
    torch.save(dict(state_dict={'conv1.weight': torch.zeros(3)}), 'other.pth')
    _, error = run(*(classifier if one == 'CHECKPOINT' else one for one in arguments))
    assert error.splitlines()[-1].startswith('error: ') and sentence in error and 'Traceback' not in error


def test_a_detector_without_focal_attention(run, shapes, tmp_path):
    saved = save_network(tmp_path / 'resnet.pth', 'atss_r_nano_shapes')
    _, error = run(saved, shapes / 'val2017/000000000001.jpg')
    assert 'the backbone is ResNet, which has no focal attention' in error
