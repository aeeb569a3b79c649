"""`mmfocal benchmark loading`: nothing here depends on how long anything takes."""

import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import cv2
import mmcv
import numpy as np
import pytest

from mmfocal.benchmark import loading
from mmfocal.cli import parse_args
from mmfocal.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / 'configs'
DETECTOR = CONFIGS / 'mask_rcnn_focal_nano_shapes.py'


@pytest.fixture
def root(shapes, monkeypatch):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes))


def run(*args):
    args = parse_args(['benchmark', 'loading', *map(str, args)])
    args.main(args)


def table(text):
    """Returns row → cells."""
    rows = (re.split(r'  +', line) for line in text.splitlines())
    return {row[0]: row[1:] for row in rows if len(row) > 1}


def test_detector(root, capsys):
    run(DETECTOR, '--images', 6, '--rounds', 1, '--iteration', 1000, '--gpus', 4)
    text = capsys.readouterr().out
    rows = table(text)
    names = ['LoadImageFromFile', 'LoadAnnotations', 'PackDetInputs', 'the rest', 'sum', 'images per second']
    assert [name for name in rows if name in names] == names
    times = {name: float(cells[0]) for name, cells in rows.items() if re.fullmatch(r'[\d.]+', cells[0])}
    rate, total = times.pop('images per second'), times.pop('sum')
    assert rate == pytest.approx(1e3 / total, rel=0.02)
    assert total == pytest.approx(sum(times.values()), abs=0.01 * len(times))
    assert re.search(r'\d+ images per GPU every 1000 s: num_workers=2; 4 GPUs: 12 cores\n$', text)


def test_decoders_are_used(root, monkeypatch, capsys):
    decoded = Counter()
    imfrombytes = mmcv.imfrombytes

    def counted(content, flag, backend):
        decoded[backend] += 1
        return imfrombytes(content, flag=flag, backend=backend)

    monkeypatch.setattr(mmcv, 'imfrombytes', counted)
    run(DETECTOR, '--images', 3, '--rounds', 2, '--decode', 'pillow', 'cv2')
    assert decoded == {'pillow': 2 * (loading.WARM_UP + 3), 'cv2': 2 * (loading.WARM_UP + 3)}
    assert 'ms, Pillow  ms, OpenCV' in capsys.readouterr().out
    assert mmcv.image.io.imread_backend == 'cv2'


def test_segmentor(tmp_path, capsys):
    for folder, suffix, shape in (('img', '.jpg', (40, 60, 3)), ('ann', '.png', (40, 60))):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / f'a{suffix}'), np.zeros(shape, np.uint8))
    (tmp_path / 'config.py').write_text(
        f"""
default_scope = 'mmseg'
train_dataloader = dict(batch_size=2, dataset=dict(type='RepeatDataset', times=3, dataset=dict(
    type='BaseSegDataset', data_root={str(tmp_path)!r}, data_prefix=dict(img_path='img', seg_map_path='ann'),
    metainfo=dict(classes=['a', 'b'], palette=[[0, 0, 0], [9, 9, 9]]),
    pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')])))
"""
    )
    run(tmp_path / 'config.py', '--images', 3, '--rounds', 1)
    rows = table(capsys.readouterr().out)
    assert {'LoadImageFromFile', 'LoadAnnotations', 'PackSegInputs'} < set(rows)


def test_times_of_nested_calls_add_up():
    class Data:
        def __init__(self):
            self.pipeline = SimpleNamespace(transforms=[lambda results: results])

        def __getitem__(self, index):
            for transform in self.pipeline.transforms:
                index = transform(index)
            return index

    data = Data()
    before = list(data.pipeline.transforms)
    times = loading.measure(data, list(range(loading.WARM_UP + 5)))
    assert list(times) == ['<lambda>', loading.OTHERS] and all(value >= 0 for value in times.values())
    assert data.pipeline.transforms == before


@pytest.mark.parametrize(
    'args, message',
    [
        (['--images', '0'], "'0' is not an integer of at least 1"),
        (['--iteration', '-1'], "'-1' is not a positive number of seconds"),
        (['--iteration', 'fast'], "'fast' is not a positive number of seconds"),
        (['--decode', 'jpeg'], "invalid choice: 'jpeg'"),
    ],
)
def test_bad_arguments(args, message, capsys):
    with pytest.raises(SystemExit):
        parse_args(['benchmark', 'loading', str(DETECTOR), *args])
    assert message in capsys.readouterr().err


def test_no_training_data(tmp_path):
    (tmp_path / 'config.py').write_text("default_scope = 'mmdet'\n")
    with pytest.raises(ConfigError, match='it has no train_dataloader; take a config for training'):
        run(tmp_path / 'config.py')


def test_turbojpeg_is_not_installed(root, monkeypatch):
    monkeypatch.setattr(mmcv.image.io, 'TurboJPEG', None)
    monkeypatch.setattr(mmcv.image.io, 'jpeg', None)
    with pytest.raises(ConfigError, match='--decode turbojpeg: `PyTurboJPEG` is not installed; pip install'):
        run(DETECTOR, '--decode', 'turbojpeg')


def test_an_image_that_turbojpeg_cannot_decode(root, monkeypatch):
    class Jpeg:
        def decode(self, content, pixel_format):
            raise OSError('Not a JPEG file: starts with 0x89 0x50')

    monkeypatch.setattr(mmcv.image.io, 'TurboJPEG', Jpeg)
    monkeypatch.setattr(mmcv.image.io, 'jpeg', None)
    with pytest.raises(ConfigError, match='--decode turbojpeg: it cannot decode an image: Not a JPEG file'):
        run(DETECTOR, '--decode', 'turbojpeg', '--images', 1)


@pytest.mark.parametrize('batch, iteration, rate, workers', [(2, 0.2, 190, 2), (2, 0.1, 10, 3), (16, 1, 16, 2)])
def test_workers(batch, iteration, rate, workers):
    assert loading.workers_per_gpu(batch, iteration, rate) == workers
