from dataclasses import replace

import pytest

from mmfocal.benchmark.speed import measure, memory
from mmfocal.benchmark.speed.contenders import BACKBONES, Case
from mmfocal.benchmark.speed.measure import Result, alternate, find_baseline, ratio

TINY = Case('backbone', 'train', 64, 64, arch='nano')


def test_rounds_alternate_and_go_on_without_what_fails():
    order = []

    def timer(step):
        order.append(step)
        if order == ['a', 'b', 'c', 'a', 'b']:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte"
            )
        return len(order)

    results = [Result(name, name) for name in 'abcd']
    results[3].status = 'absent'
    alternate(results, {name: name for name in 'abcd'}, 3, timer)
    assert ''.join(order) == 'abcabcac'
    assert [result.times for result in results] == [[1, 4, 7], [], [3, 6, 8], []]
    assert results[1].status == 'out of memory'


def test_ratio_is_the_rounds_median():
    a, b = Result('a', 'a', [2.0, 3.0, 8.0, 5.0, 4.0]), Result('b', 'b', [1.0, 1.0, 2.0, 1.0, 4.0])  # 2, 3, 4, 5, 1
    assert ratio(a, b) == (3, 2, 4) and ratio(b, b) == (1, 1, 1)
    assert ratio(Result('a', 'a', [3.0]), Result('b', 'b', [2.0])) == (1.5, 1.5, 1.5)


def test_baseline():
    seconds = dict(focal=1.0, swin_mmdet=5.0, swin_timm=3.0, swin_torchvision=2.0)
    results = [Result(name, '', [time]) for name, time in seconds.items()]
    assert (
        find_baseline(results, 'cpu').name == 'swin_mmdet' and find_baseline(results, 'cuda').name == 'swin_torchvision'
    )
    results[3].fail(RuntimeError('broken'))
    assert find_baseline(results, 'cuda').name == 'swin_timm'
    assert find_baseline(results[:2], 'cuda').name == 'swin_mmdet' and find_baseline(results[:1], 'cpu') is None
    assert find_baseline(results[2:], 'cpu').name == 'swin_timm'


def test_timer_fills_its_time(monkeypatch):
    """The timer runs short steps more than once, and counts each."""
    calls = []
    clock = iter(range(100))
    monkeypatch.setattr(measure.time, 'perf_counter', lambda: next(clock) * 0.001)
    timer = measure.make_timer('cpu', shortest=0.005)
    assert timer(lambda: calls.append(1)) == pytest.approx(0.001 / 5) and len(calls) == 6


def test_memory_in_a_process_of_its_own():
    parameters = sum(parameter.numel() * 4 for parameter in BACKBONES['focal'].build(TINY).parameters())
    size, reason = memory.cpu_peak('focal', replace(TINY, height=256, width=256), threads=1)
    assert reason == '' and 2 * parameters < size < 2**30  # weights, gradients and activations, but no library
    size, reason = memory.cpu_peak('swin_nobody', TINY, threads=1)
    assert size is None and 'ended with 1: KeyError' in reason
