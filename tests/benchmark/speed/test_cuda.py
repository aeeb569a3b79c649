"""The CUDA paths of the speed benchmark and of `iteration`, on a fake GPU."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from mmfocal.benchmark import iteration
from mmfocal.benchmark.speed import cases, command, comparison, measure
from mmfocal.benchmark.speed.implementations import BACKBONES, OPERATORS, Implementation

CONFIGS = Path(__file__).parents[3] / 'configs'


class Maps(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, 4)

    def forward(self, x):
        return [self.conv(x)]


@pytest.fixture
def small(monkeypatch):
    """Small cases, few implementations that are quick, small measurements of the machine."""
    monkeypatch.setattr(
        command,
        'preset_cases',
        lambda device: [
            replace(case, height=64, width=64, batch=1, arch='nano') for case in cases.preset_cases(device)
        ],
    )
    monkeypatch.setitem(measure.RATE_SIZES, 'cuda', (64, 2**16))
    for name in ('swin_mmdet', 'swin_timm'):
        monkeypatch.setitem(BACKBONES, name, Implementation(name, lambda case: Maps(), casts=name == 'swin_timm'))
    monkeypatch.setitem(OPERATORS, 'flex_attention', OPERATORS['roll_unfold'])  # compiles for minutes on a CPU
    for name in ('swin_timm_fused', 'swin_torchvision'):
        monkeypatch.setitem(BACKBONES, name, Implementation(name, lambda case: Maps(), needs='no_such_module'))


def speed(*args):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    command.main(parser.parse_args([*args, '--device', 'cuda', '--repeats', '1', '--threads', '1']))


def results(folder):
    record = json.loads((folder / 'speed.json').read_text())
    assert record['environment']['device'] == 'Fake GPU' and (folder / 'speed.png').stat().st_size > 1000
    return [(case, {result['name']: result for result in case['results']}) for case in record['cases']]


def test_all(fake_cuda, small, tmp_path, capsys):
    speed('--all', '--out', str(tmp_path))
    found = results(tmp_path)
    assert len(found) == 3 + 8 and {case['device'] for case, _ in found} == {'cuda'}
    for case, by_name in found:
        names = ['focal', 'roll_unfold']
        names += ['swin_mmdet', 'swin_timm'] if case['what'] == 'backbone' else ['flex_attention', 'window_sdpa']
        assert [name for name, one in by_name.items() if one['status'] == 'ok'] == names, by_name
        assert all(by_name[name]['memory'] == 2 * 2**20 for name in names)
        assert case['baseline'] == ('swin_timm' if case['what'] == 'backbone' else 'window_sdpa')
        assert ('share' in by_name['focal']) == (case['what'] == 'attention')
    assert fake_cuda.graphs == 8 * 4 and fake_cuda.synchronized > 0
    text = capsys.readouterr().out
    assert 'Fake GPU; ' in text and 'swin_torchvision: absent: ModuleNotFoundError' in text


def test_a_step_that_is_no_graph(fake_cuda, small, tmp_path, capsys):
    fake_cuda.graph_error = RuntimeError('operation not permitted when stream is capturing')
    speed('--what', 'attention', '--arch', 'nano', '--sizes', '64x64', '--models', 'focal', '--out', str(tmp_path))
    assert 'it is no CUDA graph: RuntimeError: operation not permitted' in capsys.readouterr().out
    assert all(by_name['focal']['median'] > 0 for _, by_name in results(tmp_path))


@pytest.mark.parametrize('what', ['backbone', 'attention'])
def test_out_of_memory(fake_cuda, small, tmp_path, monkeypatch, what):
    def out_of_memory(*args):
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 GiB')

    registry = BACKBONES if what == 'backbone' else OPERATORS
    monkeypatch.setitem(registry, 'roll_unfold', Implementation('', out_of_memory))
    names = ('focal', 'roll_unfold')
    sizes = ('--sizes', '64x64', '--arch', 'nano')
    speed('--what', what, '--dtype', 'bfloat16', *sizes, '--models', *names, '--out', str(tmp_path))
    for _, by_name in results(tmp_path):
        assert [by_name[name]['status'] for name in names] == ['ok', 'out of memory']
    assert fake_cuda.emptied > 0


def test_profile_and_scaling(fake_cuda, small, tmp_path, monkeypatch, capsys):
    asked = []

    def on_cpu(activities):
        asked.append(activities)
        return profile(activities=activities[:1])

    monkeypatch.setattr(measure, 'profile', on_cpu)
    sizes = ('--sizes', '64x64', '64x96', '--arch', 'nano')
    speed('--scaling', '--profile', *sizes, '--models', 'focal', 'swin_timm', '--out', str(tmp_path))
    assert asked == [[ProfilerActivity.CPU, ProfilerActivity.CUDA]] * 4
    text = capsys.readouterr().out
    assert 'ms per step, profiled' in text and '∝ area^p' in text


def test_compiled(fake_cuda, small, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, 'compile', lambda function, dynamic: compiled.append(function) or function)
    sizes = ('--sizes', '64x64', '--arch', 'nano')
    speed('--compile', *sizes, '--models', 'focal', 'swin_timm', '--out', str(tmp_path))
    assert len(compiled) == 2
    assert all(one['status'] == 'ok' for _, by_name in results(tmp_path) for one in by_name.values())


def test_without_bfloat16(fake_cuda, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation: False)
    assert {case.dtype for case in cases.preset_cases('cuda')} == {'float16'}


def test_iteration(fake_cuda, capsys):
    parser = argparse.ArgumentParser()
    iteration.add_arguments(parser)
    config = str(CONFIGS / 'atss_focal_nano_shapes.py')
    args = [config, '--size', '64x96', '--batch', '1', '--boxes', '3', '--repeats', '1']
    iteration.main(parser.parse_args(args))
    first, *_, last = capsys.readouterr().out.splitlines()
    assert 'Fake GPU' in first and last.split() == ['peak', 'memory', '3', 'MiB'] and fake_cuda.synchronized > 0


def test_rates_of_the_machine_are_measured_once_per_dtype(fake_cuda, small, tmp_path, monkeypatch):
    measured = []
    rates = comparison.device_rates
    monkeypatch.setattr(comparison, 'device_rates', lambda *args: measured.append(args) or rates(*args))
    sizes = ('--sizes', '64x64', '--arch', 'nano')
    speed('--what', 'attention', '--dtype', 'bfloat16', *sizes, '--models', 'focal', '--out', str(tmp_path))
    assert measured == [('cuda', torch.bfloat16)]
