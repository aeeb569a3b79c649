"""`tools/benchmark.py iteration`: nothing here depends on how long anything takes."""

import argparse
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.registry import MODELS, init_default_scope

from mmfocal.benchmark import iteration
from mmfocal.engine import read_config

CONFIGS = Path(__file__).parents[2] / 'configs'


def benchmark(*args):
    parser = argparse.ArgumentParser()
    iteration.add_arguments(parser)
    iteration.main(parser.parse_args(['--device', 'cpu', *(str(arg) for arg in args)]))


@pytest.mark.parametrize(
    'name, parts',
    [
        ('reppointsv2_focal_nano_shapes', ['targets of points', 'targets of corners', 'foreground maps']),
        ('atss_focal_nano_shapes', ['targets of points']),
    ],
)
def test_iteration_and_its_parts(capsys, name, parts):
    benchmark(CONFIGS / f'{name}.py', '--size', '64x96', '--batch', 1, '--boxes', 3, '--repeats', 1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f'{name}, 1 × 64x96, 3 boxes per image; CPU')
    memory = re.fullmatch(r'peak memory +(\d+) MiB', lines.pop())
    assert int(memory[1]) > 100  # PyTorch alone has more
    times = {line[:22].strip(): float(re.search(r'([\d.]+) ms', line)[1]) for line in lines[1:]}
    assert list(times) == ['training iteration', *parts]
    assert times['training iteration'] > sum(times[part] for part in parts) > 0


@pytest.mark.parametrize(
    'args, sentence',
    [
        (['--size', '800'], "argument --size: '800' is not HEIGHTxWIDTH"),
        (['--size', '8x8'], 'at least 32 pixels'),
        (['--batch', '0'], 'is not an integer of at least 1'),
    ],
)
def test_bad_arguments(args, sentence, capsys):
    with pytest.raises(SystemExit):
        benchmark(CONFIGS / 'atss_focal_nano_shapes.py', *args)
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize('name', ['mask_rcnn_focal_nano_shapes', 'sparse_rcnn_focal_nano_shapes'])
def test_two_stage_detectors(capsys, name):
    benchmark(CONFIGS / f'{name}.py', '--size', '64x96', '--batch', 1, '--boxes', 3, '--repeats', 1)
    assert re.search(
        r'3 boxes per image.*\ntraining iteration +[\d.]+ ms\npeak memory +\d+ MiB\n$', capsys.readouterr().out
    )


@pytest.mark.parametrize('name', ['upernet_focal_nano_shapes', 'semantic_fpn_focal_nano_shapes'])
def test_segmentors(capsys, name):
    benchmark(CONFIGS / f'{name}.py', '--size', '64x96', '--repeats', 1)
    assert re.search(
        rf'{name}, 2 × 64x96; CPU.*\ntraining iteration +[\d.]+ ms\npeak memory +\d+ MiB\n$', capsys.readouterr().out
    )


def test_options_of_the_config(monkeypatch):
    seen = []
    monkeypatch.setattr(iteration, 'measure', lambda cfg, *args: seen.append(cfg.model.backbone.with_cp) or (1.0, {}))
    benchmark(CONFIGS / 'atss_focal_nano_shapes.py', '--cfg-options', 'model.backbone.with_cp=True')
    assert seen == [True]


def test_default_sizes(monkeypatch):
    sizes = []
    monkeypatch.setattr(iteration, 'measure', lambda cfg, size, *args: sizes.append(size) or (1.0, {}))
    benchmark(CONFIGS / 'atss_focal_nano_shapes.py')
    benchmark(CONFIGS / 'upernet_focal_nano_shapes.py')
    assert sizes == [(800, 1333), (512, 512)]


@pytest.mark.parametrize('name, stuff', [('panoptic_fpn_r50_1x', True), ('mask2former_instance_focal_tiny_50e', False)])
def test_annotations_for_masks_and_stuff(monkeypatch, name, stuff):
    monkeypatch.setenv('FOCAL_TINY', 'none')
    cfg = read_config(CONFIGS / f'{name}.py')
    init_default_scope(cfg.default_scope)
    (sample,) = iteration.random_batch(MODELS.build(cfg.model), (64, 96), 1, 5)['data_samples']
    objects = sample.gt_instances
    assert objects.masks.masks.shape == (5, 64, 96) and objects.masks.masks.any((1, 2)).all()
    assert ((objects.labels >= 0) & (objects.labels < 80)).all() and ('gt_sem_seg' in sample) == stuff
    if stuff:
        labels = sample.gt_sem_seg.sem_seg
        assert labels.shape == (1, 64, 96) and ((labels >= 80) & (labels < 133)).all() and len(labels.unique()) > 3


def test_predictions_with_chosen_operators():
    code = "import sys; from mmfocal import cli; sys.argv[0] = 'mmfocal'; cli.main()"
    options = [
        '--size',
        '64x96',
        '--batch',
        '1',
        '--repeats',
        '1',
        '--device',
        'cpu',
        '--test',
        '--mmcv-ops',
        'pytorch',
    ]
    command = [sys.executable, '-c', code, 'benchmark', 'iteration', 'mask_rcnn_focal_nano_shapes', *options]
    done = subprocess.run(command, cwd=CONFIGS.parent, capture_output=True, text=True)
    assert 'MMCV operators: PyTorch; medians of 1' in done.stdout, done.stderr
    assert re.search(r'\nprediction +[\d.]+ ms\npeak memory', done.stdout)
