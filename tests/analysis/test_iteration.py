"""`tools/benchmark.py iteration`: nothing here depends on how long anything takes."""
import argparse
import re
from pathlib import Path

import pytest

from mmfocal.analysis import iteration
from mmfocal.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / 'configs'


def benchmark(*args):
    parser = argparse.ArgumentParser()
    iteration.add_arguments(parser)
    iteration.main(parser.parse_args([str(arg) for arg in args] + ['--device', 'cpu']))


@pytest.mark.parametrize('name, parts', [
    ('reppointsv2_focal_nano_shapes', ['targets of points', 'targets of corners', 'foreground maps']),
    ('atss_focal_nano_shapes', ['targets of points']),
])
def test_iteration_and_its_parts(capsys, name, parts):
    benchmark(CONFIGS / f'{name}.py', '--size', '64x96', '--batch', 1, '--boxes', 3, '--repeats', 1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f'{name}, 1 × 64x96, 3 boxes an image; CPU')
    times = {line[:22].strip(): float(re.search(r'([\d.]+) ms', line)[1]) for line in lines[1:]}
    assert list(times) == ['training iteration', *parts]
    assert times['training iteration'] > sum(times[part] for part in parts) > 0


@pytest.mark.parametrize('args, sentence', [
    (['--size', '800'], '--size 800: must be HEIGHTxWIDTH'),
    (['--size', '8x8'], 'of 32 at least'),
    (['--batch', '0'], 'must be at least 1'),
])
def test_bad_arguments(args, sentence):
    with pytest.raises(ConfigError, match=sentence):
        benchmark(CONFIGS / 'atss_focal_nano_shapes.py', *args)


def test_two_stage_detectors_are_refused():
    with pytest.raises(ConfigError, match='MaskRCNN, has no bbox_head'):
        benchmark(CONFIGS / 'mask_rcnn_focal_nano_shapes.py')
