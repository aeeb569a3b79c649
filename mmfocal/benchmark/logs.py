"""Draws the curves of trainings: losses, learning rate, metrics, time of an iteration, memory.

Curves come from the logs of work directories, vis_data/scalars.json in each run's folder. A training that was resumed
is one curve: what the interrupted run logged after the checkpoint is left out.
"""

import argparse
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmfocal.benchmark.paper.collect import TIMESTAMP, number, read_scalars
from mmfocal.errors import ConfigError, MissingFileError
from mmfocal.files import open_atomically
from mmfocal.text import format_table
from mmfocal.visualization.plotting import style

FORMATS = ('.png', '.svg', '.pdf')
LOGGED = {'time': 'seconds per iteration', 'data_time': 'seconds of loading per iteration', 'memory': 'MiB', 'lr': 'lr'}
METRICS = ('bbox_mAP', 'segm_mAP', 'mIoU', 'PQ')  # drawn if they are in the logs and --keys does not say otherwise
LEFT_OUT = ('data_time', 'time')  # of validations: they are no metrics


@dataclass
class Curves:
    """A training: key → points of iteration and value, and of validations, whose steps are epochs or iterations."""

    name: str
    train: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    val: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    by_epoch: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument('work_dirs', nargs='+', metavar='WORK_DIR', help='work directory of a training')
    parser.add_argument('--out', default='logs.png', help='the picture, .png, .svg or .pdf (default: logs.png)')
    parser.add_argument(
        '--keys',
        nargs='+',
        metavar='KEY',
        help='what to draw, e.g. loss_bbox bbox_mAP_50 (default: losses, lr, main metrics, time and memory)',
    )


def main(args: argparse.Namespace) -> None:
    """Prints a table and draws the picture.

    Args:
        args: Of `add_arguments`.

    Raises:
        MissingFileError: If a work directory has no log.
        ConfigError: If no log has one of the keys, or the picture cannot be written.
    """
    out = Path(args.out)
    if out.suffix.lower() not in FORMATS:
        raise ConfigError(f'--out: {out} cannot be written; use the suffix {", ".join(FORMATS)}')
    notes: list[str] = []
    runs = [read_curves(Path(work_dir), notes) for work_dir in args.work_dirs]
    keys = args.keys or default_keys(runs)
    known = {key for run in runs for key in (*run.train, *run.val)}
    for key in keys:
        if key not in known:
            raise ConfigError(f'--keys: no log has {key}; write one of {", ".join(sorted(known))}')
    for note in notes:
        print(f'note: {note}')
    print(format_table(table(runs)))
    try:
        with open_atomically(out) as file:
            draw(runs, keys).savefig(file, format=out.suffix[1:].lower(), dpi=130)
    except OSError as error:
        raise ConfigError(f'--out: {out} cannot be written: {error.strerror}') from error
    print(out)


def read_curves(work_dir: Path, notes: list[str]) -> Curves:
    """Reads the curves of a training, whose runs are joined.

    Args:
        work_dir: Has a folder per run; may be such a folder itself.
        notes: Gets a line per damaged file.

    Raises:
        MissingFileError: If there is no such folder, or no log in it.
    """
    if not work_dir.is_dir():
        raise MissingFileError(f'{work_dir}: no such folder; name a work directory')
    folders = sorted(path for path in work_dir.iterdir() if path.is_dir() and TIMESTAMP.fullmatch(path.name))
    if TIMESTAMP.fullmatch(work_dir.resolve().name):
        folders = [work_dir]
    train: list[dict] = []
    val: list[dict] = []
    for folder in folders:
        steps, validations = split(read_scalars(folder, notes))
        if steps:  # a resumed training starts at a checkpoint, before the end of the log
            train = [one for one in train if one['iter'] < steps[0]['iter']]
            first = steps[0].get('epoch', steps[0]['iter'])
            val = [one for one in val if one['step'] < first]
        train, val = train + steps, val + validations
    if not train and not val:
        why = f' ({notes[-1]})' if notes else ''
        raise MissingFileError(f'{work_dir}: no log of a training in it{why}; name its work directory')
    by_epoch = any('epoch' in one for one in train)
    run = Curves(work_dir.resolve().name if work_dir.name in ('', '.') else str(work_dir), by_epoch=by_epoch)
    for records, step, curves in ((train, 'iter', run.train), (val, 'step', run.val)):
        for record in records:
            for key, value in record.items():
                if key not in ('iter', 'step', 'epoch'):
                    curves.setdefault(key, []).append((record[step], value))
    return run


def split(records: list[dict]) -> tuple[list[dict], list[dict]]:
    """Splits MMEngine's records into those of training and of validation, with the numbers in them only."""
    train, val = [], []
    for record in records:
        numbers = {str(key).split('/')[-1]: number(value) for key, value in record.items()}
        numbers = {key: value for key, value in numbers.items() if value is not None}
        if 'iter' in numbers:
            train.append({key: value for key, value in numbers.items() if key != 'step'})
        elif 'step' in numbers:
            val.append({key: value for key, value in numbers.items() if key not in LEFT_OUT})
    return train, val


def default_keys(runs: list[Curves]) -> list[str]:
    """Returns the keys to draw: the loss and its largest parts, the learning rate, metrics, time, memory."""
    found = {key for run in runs for key in (*run.train, *run.val)}
    losses = sorted(key for key in found if 'loss' in key and key != 'loss' and any(key in run.train for run in runs))
    keys = ['loss', *losses, 'lr', *METRICS, 'time', 'memory']
    return [key for key in keys if key in found]


def table(runs: list[Curves]) -> list[list[str]]:
    """Returns a row per run: how far it is, the last loss, the last and best of its metric, time and memory."""
    rows = [['', 'iterations', 'loss', 'lr', 'metric', 'last', 'best', 'at', 's/iteration', 'MiB']]
    for run in runs:
        metric = next((name for name in METRICS if name in run.val), next(iter(run.val), None))
        points = run.val.get(metric, []) if metric else []
        best = max(points, key=lambda point: point[1], default=None)
        last = {key: run.train[key][-1][1] for key in ('loss', 'lr') if run.train.get(key)}
        times = [value for _, value in run.train.get('time', [])]
        memory = [value for _, value in run.train.get('memory', [])]
        iterations = max((x for points in run.train.values() for x, _ in points), default=None)
        rows.append(
            [
                run.name,
                _text(iterations, 'g'),
                _text(last.get('loss'), '.4g'),
                _text(last.get('lr'), '.3g'),
                metric or '',
                _text(points[-1][1] if points else None, '.4g'),
                _text(best and best[1], '.4g'),
                _text(best and best[0], 'g'),
                _text(statistics.median(times) if times else None, '.3g'),
                _text(max(memory, default=None), 'g'),
            ]
        )
    return rows


def draw(runs: list[Curves], keys: list[str]) -> Figure:
    """Draws a plot for each key, with a line for each run."""
    columns = min(3, len(keys))
    lines = math.ceil(len(keys) / columns)
    with style(**{'axes.grid': True, 'grid.color': '#dddddd', 'axes.autolimit_mode': 'data'}):
        figure = Figure((4.6 * columns, 3.0 * lines + 0.3), layout='constrained')
        for index, key in enumerate(keys):
            axes = figure.add_subplot(lines, columns, index + 1)
            _plot(axes, runs, key)
        if len(runs) > 1:
            handles, names = figure.axes[0].get_legend_handles_labels()
            figure.legend(handles, names, loc='outside upper center', ncols=min(3, len(runs)), frameon=False)
        return figure


def _plot(axes: Axes, runs: list[Curves], key: str) -> None:
    of_val = not any(key in run.train for run in runs)
    for index, run in enumerate(runs):
        points = (run.val if of_val else run.train).get(key, [])
        xs, ys = [x for x, _ in points], [y for _, y in points]
        marker = 'o' if of_val or len(points) == 1 else ''
        axes.plot(
            xs, ys, color=f'C{index}', label=run.name.replace('$', r'\$'), linewidth=1.3, marker=marker, markersize=4
        )
    losses = sorted(y for run in runs for _, y in run.train.get(key, ()))
    if 'loss' in key and losses and losses[-1] > 4 * losses[len(losses) // 2] > 0:
        axes.set_ylim(0, 3 * losses[len(losses) // 2])  # the first iterations would flatten the rest
    axes.set_title(key, loc='left', fontsize='medium')
    unit = LOGGED.get(key, '')
    axes.set_ylabel('' if unit == key else unit, fontsize='small')
    by_epoch = of_val and any(run.by_epoch for run in runs)
    if by_epoch:
        axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel('epoch' if by_epoch else 'iteration', loc='right', fontsize='small')
    axes.tick_params(labelsize='small')


def _text(value: float | None, spec: str) -> str:
    return '' if value is None else f'{value:{spec}}'
