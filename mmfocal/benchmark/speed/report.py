"""Tables, speed.json and speed.png of `tools/benchmark.py speed`."""

import json
import platform
import subprocess
import sys
import time
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from mmfocal.benchmark.speed.contenders import operator_work
from mmfocal.benchmark.speed.measure import ratio

PACKAGES = ('torch', 'triton', 'mmengine', 'mmcv', 'mmdet', 'mmsegmentation', 'timm', 'torchvision')
MIB = 2**20


def environment(device: str) -> dict:
    """The machine and the software, for the record."""
    return dict(
        date=time.strftime('%Y-%m-%d %H:%M:%S %z'),
        command=' '.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        commit=git_commit(),
        device=torch.cuda.get_device_name() if device == 'cuda' else 'CPU',
        cpu=_cpu_name(),
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        packages={name: package_version(name) for name in PACKAGES},
    )


def describe(environment: dict) -> str:
    """The same in two lines."""
    packages = ', '.join(f'{name} {version}' for name, version in environment['packages'].items() if version)
    where = '' if environment['device'] == 'CPU' else f'{environment["device"]}; '
    where += f'{environment["cpu"]}, {environment["threads"]} threads; commit {environment["commit"] or "unknown"}'
    return f'{where}\n{packages}'


def package_version(name: str) -> str | None:
    """Of an installed package, None where it is not."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu_name():
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(':')[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or 'unknown'


def git_commit() -> str | None:
    """Of this project, with -dirty where files have changed since; None where it is no clone."""
    command = [
        'git',
        '-C',
        str(Path(__file__).parent),
        'describe',
        '--always',
        '--dirty',
        '--abbrev=12',
        '--exclude',
        '*',
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


def table(comparison) -> str:
    """A comparison as text: time, its ratio to Swin's with the quartiles, speed-up over roll + unfold, memory."""
    case, baseline, plain = comparison.case, comparison[comparison.baseline], comparison['roll_unfold']
    attention = case.what == 'attention'
    rows = [
        [
            '',
            'ms',
            'images/s',
            f'× {baseline.label} [quartiles]' if baseline else 'no Swin',
            '× roll + unfold',
            'MiB',
            '×',
        ]
    ]
    if attention:
        rows[0] += ['TFLOP/s', 'GB/s', 'share']
    notes = []
    for result in comparison.results:
        if not result.ok:
            rows.append([result.label, result.status] + [''] * (len(rows[0]) - 2))
            notes.append(f'  {result.label}: {result.status}: {result.reason}')
            continue
        over = '{:.2f} [{:.2f}–{:.2f}]'.format(*ratio(result, baseline)) if baseline else ''
        faster = f'{1 / ratio(result, plain)[0]:.2f}' if plain and plain.ok else ''
        row = [
            result.label,
            f'{result.median * 1e3:.4g}',
            f'{case.batch / result.median:.4g}',
            over,
            faster,
            f'{result.memory / MIB:.4g}' if result.memory else '',
            f'{result.memory / baseline.memory:.2f}' if result.memory and baseline and baseline.memory else '',
        ]
        if attention and result.name.startswith('window'):  # it does less
            row += [''] * 3
        elif attention:
            flops, size = operator_work(case)
            row += [
                f'{flops / result.median / 1e12:.3g}',
                f'{size / result.median / 1e9:.3g}',
                f'{comparison.least_seconds / result.median:.2f}',
            ]
        rows.append(row)
        if result.reason:
            notes.append(f'  {result.label}: {result.reason}')
    if attention:
        flops, size = operator_work(case)
        bandwidth, rate = comparison.rates
        bound = 'copying' if size / bandwidth > flops / rate else 'multiplying'
        notes.append(
            f'  measured here: {bandwidth / 1e9:.4g} GB/s copied, {rate / 1e12:.4g} TFLOP/s of matrix products; '
            f'bound by {bound}: {size / 1e6:.4g} MB, {flops / 1e9:.4g} GFLOP, '
            f'at least {comparison.least_seconds * 1e3:.4g} ms'
        )
    return '\n'.join([columns(rows), *notes])


def profile_table(comparison) -> str:
    """Where each contender's time goes, in milliseconds a step by the profiler, which slows down many small operators."""
    results = [result for result in comparison.results if result.kinds]
    rows = [['ms a step, profiled', *(result.label for result in results)]]
    for kind in results[0].kinds if results else ():
        rows.append([kind, *(f'{result.kinds[kind] * 1e3:.4g}' for result in results)])
    return columns(rows)


def columns(rows: list[list[str]]) -> str:
    """Text in columns: the first to the left, the others to the right; empty columns are left out."""
    used = [i for i in range(len(rows[0])) if i == 0 or any(row[i] for row in rows[1:])]
    widths = [max(len(row[i]) for row in rows) for i in used]
    lines = [
        '  '.join(row[i].ljust(width) if i == 0 else row[i].rjust(width) for i, width in zip(used, widths))
        for row in rows
    ]
    return '\n'.join(line.rstrip() for line in lines)


def target_table(goals: list, comparisons: list) -> str:
    """The targets beside what was measured."""
    rows = [['target', 'must', 'aim', 'measured', '', '']]
    for goal in goals:
        value, note = goal.value(comparisons)
        must = 'stated' if goal.must is None else f'{goal.sign} {goal.must:g}'
        measured = '–' if value is None else f'{value:.3f}'
        rows.append([goal.text, must, f'{goal.sign} {goal.aim:g}', measured, goal.verdict(value), note])
    return columns(rows)


def scaling_table(comparisons: list) -> str:
    """For each contender the exponent p in time ∝ area^p, likewise of its memory, over all sizes and over the larger half.

    Over small sizes memory is mostly weights, and time partly overhead: the larger half tells the growth.
    """
    rows = [['∝ area^p', 'p of time', 'larger half', 'p of memory', 'larger half', 'sizes', 'largest']]
    for label, points in scaling_points(comparisons).values():
        exponents = zip(scaling_exponents(points), scaling_exponents(points, larger_half=True))
        cells = ['' if p is None else f'{p:.2f}' for pair in exponents for p in pair]
        rows.append([label, *cells, str(len(points)), '{0}×{1}'.format(*points[-1][0])])
    return columns(rows)


def scaling_points(comparisons: list) -> dict:
    """Name → its label, and ((height, width), seconds, bytes or None) for each size at which it ran, by area."""
    found = {}
    for comparison in sorted(comparisons, key=lambda one: one.case.height * one.case.width):
        for result in comparison.results:
            if result.ok:
                size = comparison.case.height, comparison.case.width
                found.setdefault(result.name, (result.label, []))[1].append((size, result.median, result.memory))
    return found


def scaling_exponents(points: list, larger_half: bool = False) -> tuple[float | None, float | None]:
    """Fits value ∝ area^p by least squares of the logarithms; 1 is linear.

    Args:
        points (list): One contender's of `scaling_points`.
        larger_half (bool): Use the larger half of the sizes alone, two at least. Defaults to False.

    Returns:
        Tuple[Optional[float], Optional[float]]: p of time and of memory; None where there are fewer than two areas.
    """
    if larger_half:
        points = points[min(len(points) // 2, max(len(points) - 2, 0)) :]
    exponents = []
    for column in (1, 2):
        measured = [(height * width, value) for (height, width), *values in points if (value := values[column - 1])]
        exponents.append(_slope(measured) if len({area for area, _ in measured}) > 1 else None)
    return tuple(exponents)


def _slope(points):
    x, y = torch.tensor(points, dtype=torch.float64).log().T
    x = x - x.mean()
    return float((x * y).sum() / (x * x).sum())


def write(args, comparisons: list, goals: list) -> None:
    """Writes speed.json and, where matplotlib is there, speed.png, into `args.out`, and says so."""
    record = dict(environment=environment(args.device), cases=[as_dict(comparison) for comparison in comparisons])
    if goals:
        record['targets'] = []
        for goal in goals:
            value, note = goal.value(comparisons)
            record['targets'].append(
                dict(
                    target=goal.text,
                    measure=goal.measure,
                    must=goal.must,
                    aim=goal.aim,
                    measured=value,
                    note=note,
                    verdict=goal.verdict(value),
                )
            )
    if args.scaling:
        record['scaling'] = {
            name: dict(
                zip(('time_exponent', 'memory_exponent'), scaling_exponents(points)),
                larger_half=dict(
                    zip(('time_exponent', 'memory_exponent'), scaling_exponents(points, larger_half=True))
                ),
            )
            for name, (_, points) in scaling_points(comparisons).items()
        }
    path = Path(args.out) / 'speed.json'
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + '\n')
    print(f'\n{path}')
    try:
        from mmfocal.benchmark.speed import plot as speed_plot
    except ModuleNotFoundError as error:
        if error.name != 'matplotlib':
            raise
        print('no plot: matplotlib is not installed')
        return
    plot = speed_plot.scaling if args.scaling else speed_plot.bars
    print(plot(comparisons, Path(args.out) / 'speed.png'))


def as_dict(comparison) -> dict:
    """A comparison for speed.json: seconds, bytes, FLOP/s; ratios to the baseline with the quartiles of the rounds' ratios."""
    baseline, plain = comparison[comparison.baseline], comparison['roll_unfold']
    contenders = []
    for result in comparison.results:
        entry = asdict(result)
        if result.ok:
            entry.update(median=result.median, images_per_second=comparison.case.batch / result.median)
            if baseline:
                entry.update(zip(('ratio', 'ratio_lower_quartile', 'ratio_upper_quartile'), ratio(result, baseline)))
            if baseline and baseline.memory and result.memory:
                entry['memory_ratio'] = result.memory / baseline.memory
            if plain and plain.ok:
                entry['speed_up_over_roll_unfold'] = 1 / ratio(result, plain)[0]
            if comparison.rates and not result.name.startswith('window'):
                flops, size = operator_work(comparison.case)
                entry.update(
                    flops_per_second=flops / result.median,
                    bytes_per_second=size / result.median,
                    share=comparison.least_seconds / result.median,
                )
        contenders.append(entry)
    record = dict(
        title=str(comparison.case), **asdict(comparison.case), baseline=comparison.baseline, contenders=contenders
    )
    if comparison.rates:
        record.update(copy_bytes_per_second=comparison.rates[0], matrix_flops_per_second=comparison.rates[1])
    return record
