"""`tools/benchmark.py speed`: nothing here depends on how long anything takes."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import torch
from torch import nn

from mmfocal.benchmark.speed import command as speed
from mmfocal.benchmark.speed import comparison
from mmfocal.benchmark.speed.cases import Case, operator_work
from mmfocal.benchmark.speed.implementations import BACKBONES, OPERATORS, Implementation
from mmfocal.benchmark.speed.scaling import scaling_exponents
from mmfocal.benchmark.speed.worker import Worker
from mmfocal.cli import parse_args
from mmfocal.errors import ConfigError

ROOT = Path(__file__).parents[3]
TINY = Case('backbone', 'train', 64, 64, arch='nano')


def benchmark(monkeypatch, *args):
    """Runs tools/benchmark.py in this process."""
    args = parse_args(['benchmark', *map(str, args)])
    threads = torch.get_num_threads()
    try:
        args.main(args)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture
def no_memory(monkeypatch):
    """Memory without worker processes: 10 MiB each, less for Swin."""
    monkeypatch.setattr(Worker, 'peak_memory', lambda worker, name, case: (8 if name.startswith('swin') else 10) << 20)


@pytest.fixture
def no_libraries(monkeypatch):
    """No library is installed; Swin is one convolution."""
    for name in ('mmdet', 'timm', 'torchvision', *sys.modules):
        if name.partition('.')[0] in ('mmdet', 'timm', 'torchvision'):
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(BACKBONES, 'swin_mmdet', Implementation('Swin, MMDetection', lambda case: Maps()))


class Maps(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, 4)

    def forward(self, x):
        return [self.conv(x)]


def read(folder):
    """Returns speed.json, after a check that speed.png is a picture with something in it."""
    picture = cv2.imread(str(folder / 'speed.png'))
    assert min(picture.shape[:2]) > 150 and picture.std() > 10
    return json.loads((folder / 'speed.json').read_text())


def by_name(case):
    return {entry['name']: entry for entry in case['results']}


def test_backbones_from_end_to_end(monkeypatch, capsys, tmp_path, no_libraries, no_memory):
    """Failures are reported, and the others continue."""

    def too_large(case):
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 GiB\nand more')

    monkeypatch.setitem(BACKBONES, 'focal_gather', Implementation('Focal, gather', too_large))
    benchmark(
        monkeypatch,
        'speed',
        '--arch',
        'nano',
        '--sizes',
        '64x64',
        '70x90',
        '--mode',
        'train',
        'forward',
        '--batch',
        2,
        '--repeats',
        3,
        '--threads',
        1,
        '--device',
        'cpu',
        '--out',
        tmp_path / 'new' / 'out',
    )
    output = capsys.readouterr().out
    assert 'backbone, train, 70×90, batch 2, float32, nano' in output
    assert '× Swin, MMDetection [quartiles]' in output and str(tmp_path / 'new' / 'out' / 'speed.png') in output
    assert 'Swin, timm: absent: ModuleNotFoundError: ' in output and 'Swin, torchvision: absent: ' in output
    assert 'Focal, gather: out of memory: OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB\n' in output
    assert 'needs a CUDA device' in output  # Triton's reason

    record = read(tmp_path / 'new' / 'out')
    assert set(record['environment']) >= {'date', 'command', 'commit', 'device', 'cpu', 'threads', 'packages'}
    assert record['environment']['threads'] == 1 and record['environment']['packages']['torch'] == torch.__version__
    assert [(case['mode'], case['height'], case['width']) for case in record['cases']] == [
        ('train', 64, 64),
        ('train', 70, 90),
        ('forward', 64, 64),
        ('forward', 70, 90),
    ]
    case = by_name(record['cases'][0])
    done = [name for name, entry in case.items() if entry['status'] == 'ok']
    assert done == ['focal', 'focal_reference', 'roll_unfold', 'swin_mmdet', 'vil']
    assert case['focal_gather']['status'] == 'out of memory' and case['swin_timm']['status'] == 'absent'
    focal = case['focal']
    assert len(focal['times']) == 3 and focal['median'] == sorted(focal['times'])[1]
    assert focal['ratio_lower_quartile'] <= focal['ratio'] <= focal['ratio_upper_quartile']
    assert focal['memory_ratio'] == 1.25 and focal['images_per_second'] == 2 / focal['median']
    assert case['roll_unfold']['speed_up_over_roll_unfold'] == case['swin_mmdet']['ratio'] == 1
    assert record['cases'][0]['baseline'] == 'swin_mmdet'


@pytest.mark.parametrize('mode', ['forward', 'train'])
def test_attention_from_end_to_end(monkeypatch, capsys, tmp_path, mode):
    monkeypatch.setattr(comparison, 'device_rates', lambda device, dtype: (1e9, 1e12))
    benchmark(
        monkeypatch,
        'speed',
        '--what',
        'attention',
        '--arch',
        'nano',
        '--sizes',
        '64x64',
        '--mode',
        mode,
        '--repeats',
        1,
        '--device',
        'cpu',
        '--out',
        tmp_path,
    )
    assert 'measured here: 1 GB/s copied, 1 TFLOP/s of matrix products; bound by copying' in capsys.readouterr().out
    record = read(tmp_path)
    assert [case['stage'] for case in record['cases']] == [0, 1, 2, 3]
    for case in record['cases']:
        found = by_name(case)
        assert all(
            found[name]['status'] == 'ok' for name in OPERATORS if name not in ('focal_triton', 'flex_attention')
        )
        flops, size = operator_work(Case('attention', mode, 64, 64, arch='nano', stage=case['stage']))
        assert found['focal']['share'] == pytest.approx(max(size / 1e9, flops / 1e12) / found['focal']['median'])
        assert case['baseline'] == 'window_sdpa' and 'share' not in found['window_sdpa']


def test_all_ends_with_a_summary(monkeypatch, capsys, tmp_path, no_libraries, no_memory):
    cases = [TINY, replace(TINY, mode='forward')]
    monkeypatch.setattr(speed, 'preset_cases', lambda device: cases)
    benchmark(monkeypatch, 'speed', '--all', '--repeats', 2, '--device', 'cpu', '--out', tmp_path)
    record = read(tmp_path)
    assert record['environment']['threads'] == 2
    assert [by_name(case)['focal']['memory_ratio'] for case in record['cases']] == [1.25, 1.25]
    assert 'focal_reference' not in by_name(record['cases'][0])
    head, *lines = capsys.readouterr().out.split('\n\n')[-2].splitlines()
    assert re.split('  +', head) == [
        'Focal (ours)',
        'ms',
        'images/s',
        '× Swin [quartiles]',
        '× roll + unfold',
        'MiB',
        '× Swin',
    ]
    for case, measured, line in zip(cases, record['cases'], lines, strict=True):
        focal, cells = by_name(measured)['focal'], re.split('  +', line)
        assert cells[0] == str(case) and cells[1] == f'{focal["median"] * 1e3:.4g}'
        assert cells[3].startswith(f'{focal["ratio"]:.2f} [') and cells[5:] == ['10', '1.25']


def test_each_model_in_its_own_process(monkeypatch, capsys, tmp_path, no_memory):
    benchmark(
        monkeypatch,
        'speed',
        '--arch',
        'nano',
        '--sizes',
        '64x64',
        '--models',
        'focal',
        'focal_triton',
        '--device',
        'cpu',
        '--isolate',
        '--repeats',
        2,
        '--threads',
        1,
        '--out',
        tmp_path,
    )
    case = by_name(json.loads((tmp_path / 'speed.json').read_text())['cases'][0])
    assert len(case['focal']['times']) == 2 and case['focal']['status'] == 'ok'
    assert case['focal_triton']['status'] == 'failed' and 'needs a CUDA device' in case['focal_triton']['reason']


def test_profile(monkeypatch, capsys, tmp_path, no_memory):
    benchmark(
        monkeypatch,
        'speed',
        '--arch',
        'nano',
        '--sizes',
        '64x64',
        '--models',
        'focal',
        'roll_unfold',
        '--device',
        'cpu',
        '--profile',
        '--repeats',
        1,
        '--out',
        tmp_path,
    )
    text = capsys.readouterr().out.split('ms per step, profiled')[1]
    results = json.loads((tmp_path / 'speed.json').read_text())['cases'][0]['results']
    for name in ('aten::native_layer_norm', 'aten::copy_'):
        assert all(one['operators'][name] > 0 for one in results)
    assert all(max(one['operators'], key=one['operators'].get) in text for one in results)
    total = sum(results[0]['operators'].values()) * 1e3
    assert float(re.search(r'\nsum +([\d.]+)', text)[1]) == pytest.approx(total, rel=1e-3)


def test_scaling(monkeypatch, capsys, tmp_path, no_libraries, no_memory):
    benchmark(
        monkeypatch,
        'speed',
        '--scaling',
        '--arch',
        'nano',
        '--sizes',
        '64x64',
        '64x128',
        '--repeats',
        1,
        '--device',
        'cpu',
        '--out',
        tmp_path,
    )
    assert '∝ area^p' in capsys.readouterr().out
    record = read(tmp_path)
    assert set(record['scaling']) == {'focal', 'swin_mmdet'}
    assert record['scaling']['focal']['memory_exponent'] == pytest.approx(0)


def test_scaling_exponents():
    points = [((side, 2 * side), 3e-3 * side**2, 100.0 + side**3) for side in (100, 1000, 10000)]
    time, size = scaling_exponents(points)
    assert time == pytest.approx(1) and 1 < size < 1.5
    assert scaling_exponents(points, larger_half=True)[1] == pytest.approx(1.5, abs=1e-3)
    assert scaling_exponents(points[:1]) == (None, None)
    assert scaling_exponents([(size, time, None) for size, time, _ in points])[1] is None


@pytest.mark.parametrize(
    'args, sentence',
    [
        (['--isolate', '--profile'], '--isolate: cannot be combined with --profile; leave out one of them'),
        (['--isolate', '--device', 'cuda'], '--isolate: works on the CPU only; leave it out or add --device cpu'),
        (['--models', 'window_sdpa'], '--models window_sdpa: none is for backbone; choose from focal, '),
        (['--device', 'cuda'], '--device cuda: PyTorch sees no GPU; leave it out to measure on the CPU'),
        (['--all', '--sizes', '64x64'], '--all: chooses its cases itself; leave out --sizes'),
        (['--autocast'], '--autocast: is for half precision; add --dtype bfloat16 or float16'),
        (
            ['--autocast', '--dtype', 'bfloat16', '--what', 'attention'],
            '--autocast: is for backbones; leave out --what attention',
        ),
        (['--all', '--compile'], '--all: chooses its cases itself; leave out --compile'),
        (['--scaling', '--mode', 'forward', 'train'], '--scaling: measures backbones in one mode'),
        (['--out', __file__], f'--out {__file__}: cannot make this folder: File exists'),
    ],
)
def test_arguments_that_do_not_fit(monkeypatch, args, sentence):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: '--isolate' in args)
    with pytest.raises(ConfigError) as info:
        benchmark(monkeypatch, 'speed', *args)
    assert sentence in str(info.value) and '\n' not in str(info.value)


@pytest.mark.parametrize(
    'args, sentence',
    [
        (['--models', 'focal', 'resnet'], "argument --models: invalid choice: 'resnet' (choose from "),
        (
            ['--sizes', '224'],
            "argument --sizes: '224' is not HEIGHTxWIDTH with at least 32 pixels a side, e.g. 800x1216",
        ),
        (['--sizes', '0x224'], "argument --sizes: '0x224' is not HEIGHTxWIDTH"),
        (['--sizes', '-64x64'], 'argument --sizes: '),
        (['--repeats', '0'], "argument --repeats: '0' is not an integer of at least 1"),
        (['--batch', '-1'], "argument --batch: '-1' is not an integer of at least 1"),
        (['--threads', '2.5'], "argument --threads: '2.5' is not an integer of at least 1"),
    ],
)
def test_arguments_that_argparse_refuses(monkeypatch, capsys, args, sentence):
    with pytest.raises(SystemExit) as info:
        benchmark(monkeypatch, 'speed', *args)
    assert info.value.code == 2 and sentence in capsys.readouterr().err


WITHOUT_LIBRARIES = """
import importlib.util, runpy, sys

find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == 'mmcv' else find_spec(name, package)

class Blocker:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split('.')[0] in ('mmdet', 'mmcv', 'mmseg', 'timm', 'torchvision'):
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)

sys.meta_path.insert(0, Blocker)
sys.argv = ['tools/benchmark.py', *sys.argv[1:]]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def test_torch_and_mmengine_are_enough(tmp_path):
    args = [
        'speed',
        '--arch',
        'nano',
        '--sizes',
        '64x64',
        '--repeats',
        '1',
        '--device',
        'cpu',
        '--out',
        str(tmp_path),
        '--models',
        'focal',
        'swin_mmdet',
        'swin_timm',
        'swin_torchvision',
    ]
    done = subprocess.run([sys.executable, '-c', WITHOUT_LIBRARIES, *args], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Swin, MMDetection: absent: ModuleNotFoundError: No module named 'mmdet'" in done.stdout
    focal = by_name(read(tmp_path)['cases'][0])['focal']
    assert focal['status'] == 'ok' and focal['memory'] > 0 and 'ratio' not in focal
