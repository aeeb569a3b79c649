"""`mmfocal convert swin`."""

import sys

import cv2
import numpy as np
import pytest
import torch

from mmfocal.cli import main
from mmfocal.models import FocalTransformer
from mmfocal.weights import load_checkpoint
from mmfocal.weights.swin_downsampling import Patches, fit_norm, relative_error

ARCH = dict(embed_dims=24, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8))
MERGING = dict(downsample='merge', focal_levels=(1,) * 4, expand_sizes=(0,) * 4, use_shift=True)


@pytest.fixture
def source(tmp_path):
    """A Swin checkpoint with official names, and a folder of images."""
    torch.manual_seed(0)
    model = FocalTransformer(arch=ARCH, **MERGING, out_indices=(3,))
    names = {}
    for name, value in model.state_dict().items():
        if value.dim() > 1:
            value = torch.randn_like(value) * value[0].numel() ** -0.5
        elif 'norm.weight' in name:
            value = torch.rand_like(value) + 0.5
        if name.endswith('window_bias_table'):
            name, value = name.replace('window_bias_table', 'relative_position_bias_table'), value.t()
        names[name.replace('stages', 'layers').replace('norm3', 'norm')] = value.contiguous()
    torch.save(dict(model=names), tmp_path / 'swin.pth')
    (tmp_path / 'images/sub').mkdir(parents=True)
    for i in range(12):
        noise = np.random.default_rng(i).integers(0, 255, (20, 30, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f'images/sub/{i}.png'), cv2.resize(noise, (300, 260 + i)))
    return tmp_path / 'swin.pth'


def convert(monkeypatch, *args):
    monkeypatch.setattr(sys, 'argv', ['mmfocal', 'convert', 'swin', *map(str, args)])
    main()


def load(path, **kwargs):
    model = FocalTransformer(arch=ARCH, init_cfg=dict(type='Pretrained', checkpoint=str(path)), **kwargs)
    model.init_weights()
    return model.eval()


def test_convolutions_are_fitted(source, tmp_path, monkeypatch, capsys):
    images, fitted = tmp_path / 'images', tmp_path / 'fitted.safetensors'
    convert(monkeypatch, source, fitted, '--images', images, '--num-images', 10, '--steps', 60)
    out = capsys.readouterr().out
    rows = [line.split(' | ') for line in out.splitlines() if line.startswith(('| 1 ', '| 2 ', '| 3 '))]
    errors = [[float(cell.strip(' |%')) for cell in row[1:]] for row in rows]
    assert len(errors) == 3 and all(closed > least > distilled > 0 for closed, least, distilled in errors)
    meta = load_checkpoint(fitted)['meta']
    assert 'fitted on 10 images, relative errors ' in meta['conversion'] and meta['source'] == str(source)

    convert(monkeypatch, source, tmp_path / 'closed.pth')
    assert 'a rough closed form' in capsys.readouterr().out
    convert(monkeypatch, source, tmp_path / 'merge.pth', '--downsample', 'merge')
    assert 'rough' not in capsys.readouterr().out
    image = torch.from_numpy(cv2.imread(str(images / 'sub/3.png'))).float().permute(2, 0, 1)[None] / 50 - 2
    with torch.no_grad():
        exact = load(tmp_path / 'merge.pth', downsample='merge')(image)[1]
        distances = [(load(path)(image)[1] - exact).norm() for path in (fitted, tmp_path / 'closed.pth')]
    assert distances[0] < distances[1]


def test_merging_is_swins_function(source, tmp_path, monkeypatch):
    convert(monkeypatch, source, tmp_path / 'a.pth', '--downsample', 'merge', '--new-bias', -30)
    a, b = load(tmp_path / 'a.pth', downsample='merge', use_shift=True), load(source, **MERGING)
    x = torch.randn(1, 3, 256, 320)
    with torch.no_grad():
        torch.testing.assert_close(a(x), b(x), rtol=1e-4, atol=1e-4)


def test_least_squares_find_what_can_be_found():
    torch.manual_seed(0)
    module = FocalTransformer(arch=ARCH).stages[0].downsample
    inputs = torch.randn(500, 2, 2, 24)
    with torch.no_grad():
        outputs = module(inputs) * torch.arange(1.0, 49) - 3
    fit_norm(module, Patches(inputs, outputs))
    assert relative_error(module, Patches(inputs, outputs)) < 1e-5


@pytest.mark.parametrize(
    'args, sentence',
    [
        (['SRC', 'DST', '--images', 'nowhere'], 'nowhere: there is no such folder; check --images'),
        (['SRC', 'DST', '--images', 'TMP/empty'], 'empty: no image in it'),
        (['SRC', 'DST', '--images', 'TMP/broken'], 'x.png: the image cannot be decoded; remove it'),
        (['SRC', 'DST', '--images', 'TMP/images', '--downsample', 'merge'], '--images: --downsample merge is exact'),
        (
            ['TMP/focal.pth', 'DST'],
            'focal.pth: this is an mmfocal checkpoint, no Swin Transformer; use mmfocal convert r',
        ),
        (['SRC', 'SRC'], 'the file exists already'),
    ],
)
def test_mistakes_are_one_sentence(source, tmp_path, monkeypatch, capsys, args, sentence):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'broken').mkdir()
    (tmp_path / 'broken/x.png').write_bytes(b'no image')
    torch.save(FocalTransformer(arch=ARCH).state_dict(), tmp_path / 'focal.pth')
    values = dict(SRC=str(source), DST=str(tmp_path / 'new.pth'), TMP=str(tmp_path))
    for key, value in values.items():
        args = [arg.replace(key, value) for arg in args]
    with pytest.raises(SystemExit):
        convert(monkeypatch, *args)
    error = capsys.readouterr().err
    assert error.startswith('error: ') and error.count('\n') == 1 and sentence in error
    assert not (tmp_path / 'new.pth').exists()
