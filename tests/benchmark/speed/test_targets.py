import pytest
import torch

from mmfocal.benchmark.speed import command as speed
from mmfocal.benchmark.speed import targets
from mmfocal.benchmark.speed.contenders import Case
from mmfocal.benchmark.speed.measure import Result, find_baseline


def comparison(case, rates=None, **times):
    results = [Result(name, name, [seconds], memory) for name, (seconds, memory) in times.items()]
    baseline = find_baseline(results, case.device)
    return speed.Comparison(case, results, baseline and baseline.name, rates)


def test_cpu_targets():
    rows = targets.targets('cpu')
    case = Case('backbone', 'forward', 800, 1216)
    figures = [comparison(case, focal=(1.1, 3), swin_mmdet=(1.0, 2), roll_unfold=(3.3, 9))]
    assert [(rows[i].value(figures)[0], rows[i].verdict(rows[i].value(figures)[0])) for i in (0, 4)] == [
        (pytest.approx(1.1), 'must met'),
        (pytest.approx(3), 'must met'),
    ]
    assert rows[1].value(figures) == (None, 'focal was not measured') and rows[1].verdict(None) == 'not measured'
    assert [(row.measure, row.sign, row.must, row.aim) for row in rows] == [
        ('time', '≤', 1.15, 1.0),
        ('time', '≤', 1.1, 0.95),
        ('time', '≤', 1.25, 1.05),
        ('memory', '≤', 1.2, 1.0),
        ('speed-up', '≥', 2.5, 3.2),
    ]
    figures[0]['roll_unfold'].fail(MemoryError('none left'))
    assert rows[4].value(figures) == (None, 'MemoryError: none left')
    assert rows[0].value([comparison(case, focal=(1.1, 3))]) == (None, 'no Swin could be measured')


def test_cuda_targets(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation: True)
    rows = targets.targets('cuda')
    assert [(row.measure, row.must, row.aim) for row in rows] == [
        ('time', 1.1, 0.95),
        ('time', 1.1, 0.95),
        ('time', 1.2, 1.0),
        ('memory', 1.2, 1.0),
        ('share', None, 0.6),
        ('share', None, 0.6),
        ('speed-up', 3.0, 6.0),
        ('speed-up', 3.0, 6.0),
    ]
    assert {case.dtype for row in rows[:2] for case in row.cases} == {'bfloat16', 'float16'}
    figures = []
    for case in rows[4].cases:  # twice the least possible time in the first stage, the least in the others
        figures.append(comparison(case, (4e12, 8e14), focal=(1.0, None)))
        least = figures[-1].least_seconds
        figures[-1]['focal'].times = [least * (2 if case.stage == 0 else 1)]
    value, _ = rows[4].value(figures)
    least = [figure.least_seconds for figure in figures]
    total = 2 * least[0] + 2 * least[1] + 6 * least[2] + 2 * least[3]
    assert value == pytest.approx(total / (total + 2 * least[0])) and rows[4].verdict(value) == 'aim met'
    assert rows[4].verdict(0.5) == 'stated'
