"""Tables and speed.json of `tools/benchmark.py speed`."""

from dataclasses import asdict
from typing import Any

from mmfocal.benchmark.speed.cases import operator_work
from mmfocal.benchmark.speed.comparison import Comparison
from mmfocal.benchmark.speed.measure import Result, ratio
from mmfocal.benchmark.speed.scaling import scaling_exponents, scaling_points
from mmfocal.text import format_table

MIB = 2**20
PROFILED_OPERATORS = 20  # rows of the table


def comparison_table(comparison: Comparison) -> str:
    """Formats a comparison: time, its ratio to Swin's with the quartiles, speed-up over roll + unfold, memory."""
    attention, baseline = comparison.case.what == 'attention', comparison[comparison.baseline]
    ratio_name = f'× {baseline.label} [quartiles]' if baseline else 'no Swin'
    rows = [['', 'ms', 'images/s', ratio_name, '× roll + unfold', 'MiB', '×']]
    rows[0] += ['TFLOP/s', 'GB/s', 'share'] if attention else []
    notes = []
    for result in comparison.results:
        if result.ok:
            rows.append([result.label, *_cells(result, comparison)])
            if result.reason:
                notes.append(f'  {result.label}: {result.reason}')
        else:
            rows.append([result.label, result.status] + [''] * (len(rows[0]) - 2))
            notes.append(f'  {result.label}: {result.status}: {result.reason}')
    if comparison.rates:
        flops, size = operator_work(comparison.case)
        bandwidth, rate = comparison.rates
        bound = 'copying' if size / bandwidth > flops / rate else 'multiplying'
        notes.append(
            f'  measured here: {bandwidth / 1e9:.4g} GB/s copied, {rate / 1e12:.4g} TFLOP/s of matrix products; '
            f'bound by {bound}: {size / 1e6:.4g} MB, {flops / 1e9:.4g} GFLOP, '
            f'at least {comparison.least_seconds * 1e3:.4g} ms'
        )
    return '\n'.join([format_table(rows), *notes])


def summary_table(comparisons: list[Comparison]) -> str:
    """Formats the `focal` results of several cases, one case per line."""
    names = ['ms', 'images/s', '× Swin [quartiles]', '× roll + unfold', 'MiB', '× Swin', 'TFLOP/s', 'GB/s', 'share']
    rows = [['Focal (ours)', *names]]
    for comparison in comparisons:
        focal = comparison['focal']
        if focal and focal.ok:
            cells = _cells(focal, comparison)
            rows.append([str(comparison.case), *cells, *[''] * (len(names) - len(cells))])
        elif focal:
            rows.append([str(comparison.case), focal.status, *[''] * (len(names) - 1)])
    return format_table(rows)


def _cells(result: Result, comparison: Comparison) -> list[str]:
    """Formats a result that is ok, by the columns of `comparison_table`."""
    entry = as_record(result, comparison)
    ratios = [entry.get(key) for key in ('ratio', 'ratio_lower_quartile', 'ratio_upper_quartile')]
    cells = [
        f'{result.median * 1e3:.4g}',
        f'{entry["images_per_second"]:.4g}',
        '{:.2f} [{:.2f}–{:.2f}]'.format(*ratios) if 'ratio' in entry else '',
        _format(entry.get('speed_up_over_roll_unfold'), '.2f'),
        _format(result.memory and result.memory / MIB, '.4g'),
        _format(entry.get('memory_ratio'), '.2f'),
    ]
    if comparison.rates:
        for key, unit, spec in (
            ('flops_per_second', 1e12, '.3g'),
            ('bytes_per_second', 1e9, '.3g'),
            ('share', 1, '.2f'),
        ):
            cells.append(_format(entry[key] / unit if key in entry else None, spec))
    return cells


def _format(value: float | None, spec: str) -> str:
    return '' if value is None else f'{value:{spec}}'


def profile_table(comparison: Comparison) -> str:
    """Formats the operators that take longest, in milliseconds per step."""
    results = [result for result in comparison.results if result.operators]
    longest: dict[str, float] = {}
    for result in results:
        for name, seconds in result.operators.items():
            longest[name] = max(longest.get(name, 0.0), seconds)
    rows = [['ms per step, profiled', *(result.label for result in results)]]
    for name in sorted(longest, key=longest.__getitem__, reverse=True)[:PROFILED_OPERATORS]:
        rows.append([name, *(f'{result.operators.get(name, 0.0) * 1e3:.4g}' for result in results)])
    rows.append(['sum', *(f'{sum(result.operators.values()) * 1e3:.4g}' for result in results)])
    return format_table(rows)


def scaling_table(comparisons: list[Comparison]) -> str:
    """Formats for each implementation the exponent p in time ∝ area^p and memory ∝ area^p."""
    rows = [['∝ area^p', 'p of time', 'larger half', 'p of memory', 'larger half', 'sizes', 'largest']]
    for label, points in scaling_points(comparisons).values():
        exponents = zip(scaling_exponents(points), scaling_exponents(points, larger_half=True))
        cells = [_format(p, '.2f') for pair in exponents for p in pair]
        rows.append([label, *cells, str(len(points)), '×'.join(map(str, points[-1][0]))])
    return format_table(rows)


def scaling_record(comparisons: list[Comparison]) -> dict[str, Any]:
    """Returns name → exponents of time and memory, for speed.json."""
    keys = ('time_exponent', 'memory_exponent')
    return {
        name: dict(
            zip(keys, scaling_exponents(points)),
            larger_half=dict(zip(keys, scaling_exponents(points, larger_half=True))),
        )
        for name, (_, points) in scaling_points(comparisons).items()
    }


def comparison_record(comparison: Comparison) -> dict[str, Any]:
    """Returns a comparison for speed.json: seconds, bytes, FLOP/s, and ratios to the baseline."""
    case = comparison.case
    results = [as_record(result, comparison) for result in comparison.results]
    record = dict(title=str(case), **asdict(case), baseline=comparison.baseline, results=results)
    if comparison.rates:
        record.update(copy_bytes_per_second=comparison.rates[0], matrix_flops_per_second=comparison.rates[1])
    return record


def as_record(result: Result, comparison: Comparison) -> dict[str, Any]:
    """Returns a result for speed.json."""
    entry = asdict(result)
    if not result.ok:
        return entry
    baseline, roll_unfold = comparison[comparison.baseline], comparison['roll_unfold']
    entry.update(median=result.median, images_per_second=comparison.case.batch / result.median)
    if baseline:
        entry.update(zip(('ratio', 'ratio_lower_quartile', 'ratio_upper_quartile'), ratio(result, baseline)))
        if baseline.memory and result.memory:
            entry['memory_ratio'] = result.memory / baseline.memory
    if roll_unfold and roll_unfold.ok:
        entry['speed_up_over_roll_unfold'] = 1 / ratio(result, roll_unfold)[0]
    if comparison.rates and not result.name.startswith('window'):  # windows alone are less work
        flops, size = operator_work(comparison.case)
        entry.update(
            flops_per_second=flops / result.median,
            bytes_per_second=size / result.median,
            share=comparison.least_seconds / result.median,
        )
    return entry
