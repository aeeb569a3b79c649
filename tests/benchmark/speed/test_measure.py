from dataclasses import replace
from functools import partial

import pytest

from mmfocal.benchmark.speed import measure
from mmfocal.benchmark.speed.cases import Case
from mmfocal.benchmark.speed.implementations import BACKBONES
from mmfocal.benchmark.speed.measure import Result, Timer, alternate, attempt, cpu_run, find_baseline, ratio
from mmfocal.benchmark.speed.worker import Worker

TINY = Case('backbone', 'train', 64, 64, arch='nano')


def test_rounds_alternate_and_continue_without_what_fails():
    order = []

    def time(name):
        order.append(name)
        if order == ['a', 'b', 'c', 'a', 'b']:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte"
            )
        return len(order)

    results = [Result(name, name) for name in 'abcd']
    results[3].status = 'absent'
    alternate(results, {name: partial(time, name) for name in 'abcd'}, 3)
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


def test_timer_repeats_a_short_step(monkeypatch):
    calls = []
    clock = iter(range(100))
    monkeypatch.setattr(measure.time, 'perf_counter', lambda: next(clock) * 0.001)
    timer = Timer(cpu_run(lambda: calls.append(1)), shortest=0.005)
    assert timer() == pytest.approx(0.001 / 5) and len(calls) == 6
    assert timer() == pytest.approx(0.001 / 5) and len(calls) == 11


def test_peak_memory_of_a_worker():
    parameters = sum(parameter.numel() * 4 for parameter in BACKBONES['focal'].build(TINY).parameters())
    with Worker(threads=1) as worker:
        size = worker.peak_memory('focal', replace(TINY, height=256, width=256))
        assert 2 * parameters < size < 2**30  # weights, gradients and activations, but no library
        with pytest.raises(KeyError, match='swin_nobody'):
            worker.peak_memory('swin_nobody', TINY)


def test_a_worker_that_is_killed(monkeypatch):
    with Worker(threads=1) as worker:
        worker.build('focal', TINY)
        assert worker.run(2) > 0
        (process,) = worker._pool._processes.values()
        process.kill()
        process.join()
        result = Result('focal', '')
        assert attempt(result, worker.run, 1) is None
    assert result.status == 'failed' and 'BrokenProcessPool' in result.reason
