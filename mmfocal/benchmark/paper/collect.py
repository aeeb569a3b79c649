"""Collects the results of trainings from their work directories: from text files only, of which nothing is run."""

import argparse
import json
import math
import os
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmfocal.engine.config_text import literal_settings
from mmfocal.errors import MissingFileError
from mmfocal.text import format_table

RECORD = 'benchmark.json'  # a cell's, written by `run`; with `metrics` once the cell is finished
TIMESTAMP = re.compile(r'\d{8}_\d{6}')  # MMEngine names a run's folder and log so
METRICS = {  # last part of MMEngine's name → ours
    **{
        f'{kind}_mAP{suffix}': f'{ours}_ap{suffix.replace("_", "") if suffix[1:].isdigit() else suffix}'
        for kind, ours in (('bbox', 'box'), ('segm', 'mask'))
        for suffix in ('', '_50', '_75', '_s', '_m', '_l')
    },
    'mIoU': 'miou',
    'mAcc': 'macc',
    'aAcc': 'aacc',
    'PQ': 'pq',
    'top1': 'top1',
    'top5': 'top5',
}
MAIN = ('box_ap', 'miou', 'pq', 'mask_ap', 'top1')  # `best` is by the first of these
ENVIRONMENT = {  # lines of MMEngine's, MMDetection's and MMSegmentation's logs
    'python': r'Python: (\S+).*',
    'torch': r'PyTorch: (\S+)',
    'mmengine': r'MMEngine: (\S+)',
    'mmcv': r'MMCV: (\S+)',
    'mmdet': r'MMDetection: (\S+)',
    'mmsegmentation': r'MMSegmentation: (\S+)',
    'cuda': r'CUDA available: (\S+)',
    'gpu': r'GPU [\d,]+: (.+)',
    'seed': r'seed: (\d+)',
    'processes': r'GPU number: (\d+)',
}
VERSIONS = ('python', 'torch', 'mmengine', 'mmcv', 'mmdet', 'mmsegmentation')
LARGEST_CONFIG, LARGEST_LINE = 2**22, 2**20  # bytes
VAL_IMAGES = re.compile(r'(?:Epoch|Iter)\(val\).*?\[ *(\d+)/ *\1\] ')
CURVE_POINTS = 300
COLUMNS = ['AP, mIoU or top-1', 'best', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'mask AP']
COLUMNS += ['done', 's/iteration', 'MiB', 'GPUs', 'seed', 'commit', 'torch']


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `tools/benchmark.py collect`."""
    parser.add_argument('folder', metavar='DIR', help='is searched for work directories; may be one itself')
    parser.add_argument('--out', metavar='FILE.json', help='default: collected.json in DIR')


def main(args: argparse.Namespace) -> None:
    """Collects, prints a table, and writes the JSON file.

    Args:
        args: Of `add_arguments`.

    Raises:
        MissingFileError: If there is no such folder, or no work directory in it.
    """
    runs, notes = collect(args.folder)
    rows = [['', *COLUMNS]]
    rows += [summary(run) for run in runs]
    print(format_table(rows))
    print(
        '\nIn percent, at the end of training; best: of all validations. s/iteration: median of the logged ones. '
        'MiB: peak, of the GPU or else of the process.'
    )
    for note in notes:
        print(f'note: {note}')
    path = Path(args.out or Path(args.folder, 'collected.json'))
    path.write_text(json.dumps(dict(runs=runs, notes=notes), indent=1, ensure_ascii=False) + '\n')
    print(f'\n{path}')


def summary(run: dict) -> list[str]:
    """Returns a run's line of the table."""
    last, best = figures(run), run['best'] or {}
    main = next((name for name in MAIN if name in last), 'box_ap')
    texts = [text(last.get(main)), text(best.get(main))]
    texts += [text(last.get(f'box_ap{part}')) for part in ('50', '75', '_s', '_m', '_l')] + [text(last.get('mask_ap'))]
    done = '' if run['done'] is None else f'{run["done"]:g}/{run["planned"] or "?"} {run["unit"]}s'
    more = [
        run['seconds_an_iteration'] and f'{run["seconds_an_iteration"]:.3g}',
        run['memory_mib'],
        run['gpus'],
        run['seed'],
        run['commit'],
        run['packages'].get('torch'),
    ]
    return [run['name'], *texts, done, *('' if value is None else str(value) for value in more)]


def text(value: float | None) -> str:
    return '' if value is None else f'{value:.1f}'


def figures(run: dict) -> dict[str, float]:
    """Returns a run's metrics: of the test after training, or else of the last validation."""
    return run['test'] or run['last'] or {}


def collect(folder: str) -> tuple[list[dict], list[str]]:
    """Reads all work directories in a folder; nothing in them is run, and no checkpoint is opened.

    Args:
        folder: Searched at any depth; links to folders are not followed.

    Returns:
        A record per work directory, and a note per damaged file.

    Raises:
        MissingFileError: If there is no such folder, or no work directory in it.
    """
    if not Path(folder).is_dir():
        raise MissingFileError(f'{folder}: no such folder; give one with work directories')
    notes: list[str] = []
    runs = []
    for work_dir in work_dirs(Path(folder)):
        runs.append(read_work_dir(work_dir, Path(folder), notes))
    if not runs:
        raise MissingFileError(f'{folder}: contains no work directory of a training')
    return runs, notes


def work_dirs(folder: Path) -> Iterator[Path]:
    """Yields the folders of MMEngine's and `run`'s work, by name; folders of `run`'s tests belong to their cells."""
    for parent, folders, files in os.walk(folder):
        folders.sort()
        if RECORD in files or any(TIMESTAMP.fullmatch(name) for name in folders):
            yield Path(parent)
        folders[:] = [
            name
            for name in folders
            if not TIMESTAMP.fullmatch(name) and not (RECORD in files and name in ('test', 'test_tta'))
        ]


def read_work_dir(work_dir: Path, folder: Path, notes: list[str]) -> dict:
    """Reads a work directory; `notes` gets a line per damaged file."""
    record = read_record(work_dir)
    if not record and (work_dir / RECORD).exists():
        notes.append(f'{work_dir / RECORD}: is damaged; skipped')
    folders = sorted(path for path in work_dir.iterdir() if path.is_dir() and TIMESTAMP.fullmatch(path.name))
    train, val, test, environment, val_batches = [], [], {}, {}, None
    for path in folders:
        steps, validations = split(read_scalars(path, notes))
        if steps:  # a resumed training starts at a checkpoint, before the end of the log
            train = [one for one in train if one['iter'] < steps[0]['iter']]
            val = [one for one in val if one['step'] < steps[0].get('epoch', steps[0]['iter'])]
        train, val = train + steps, val + validations
        test = as_metrics(read_object(path / f'{path.name}.json', notes)) or test
        found, batches = read_log(path / f'{path.name}.log')
        environment.update(found)
        val_batches = batches or val_batches
    cfg, name = read_config_dump(work_dir, folders, notes)
    tests = record.get('metrics') if isinstance(record.get('metrics'), dict) else {}
    test = as_metrics(tests.get('test')) or test
    if 'miou' in (multi_scale := as_metrics(tests.get('test_tta'))):
        test['miou_ms'] = multi_scale['miou']
    train_cfg, loader = inner(cfg, 'train_cfg'), inner(cfg, 'train_dataloader')
    by_epoch = 'max_epochs' in train_cfg or any('epoch' in one for one in train)
    done = (
        epochs_done(work_dir, train, val)
        if by_epoch
        else max([one['iter'] for one in train] + [one['step'] for one in val], default=None)
    )
    main = next((name for name in MAIN if any(name in one for one in val)), None)
    cuda = environment.get('cuda') == 'True'
    processes = environment.get('processes') or (record.get('gpus') if isinstance(record.get('gpus'), int) else None)
    batch = number(loader.get('batch_size'))
    packages = {key: environment[key] for key in VERSIONS if key in environment}
    if isinstance(record.get('packages'), dict):
        packages.update({key: value for key, value in record['packages'].items() if string(value)})
    options = record.get('cfg_options')
    return dict(
        name=str(work_dir.relative_to(folder)) if work_dir != folder else work_dir.resolve().name,
        config=name or string(record.get('config')) or work_dir.name,
        dates=[path.name for path in folders],
        last=val[-1] if val else None,
        best=max((one for one in val if main in one), key=lambda one: one[main], default=None),
        test=test or None,
        unit='epoch' if by_epoch else 'iteration',
        done=done,
        planned=number(train_cfg.get('max_epochs' if by_epoch else 'max_iters')),
        seconds_an_iteration=median([one['time'] for one in train if 'time' in one]),
        seconds_a_test_batch=number(inner(tests, 'test').get('time')) or (val[-1].get('time') if val else None),
        test_batch=number(inner(cfg, 'test_dataloader').get('batch_size')),
        memory_mib=int(max((one['memory'] for one in train if 'memory' in one), default=0)) or None,
        gpus=(processes if cuda else 0) if environment else None,
        processes=processes,
        batch=int(batch * processes) if batch and processes else None,
        validation_batches=val_batches,
        gpu=environment.get('gpu'),
        seed=environment.get('seed', number(inner(cfg, 'randomness').get('seed'))),
        table=str(record['table']) if 'table' in record else None,
        commit=string(record.get('commit')),
        packages=packages,
        cfg_options=[value for value in options if string(value)] if isinstance(options, list) else [],
        failed=string(record.get('failed')),
        settings=cfg,
        curves=dict(
            loss=thinned([(one['iter'], one['loss']) for one in train if 'loss' in one]),
            metric=main,
            validation=[(one['step'], one[main]) for one in val if main in one],
        ),
    )


def read_record(work_dir: Path) -> dict:
    """Returns a cell's record, empty if there is none or it is damaged."""
    try:
        record = json.loads((work_dir / RECORD).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def read_scalars(folder: Path, notes: list[str]) -> list[dict]:
    """Reads a run's log, one JSON object per line: nothing of a damaged log, all but a last line that is cut off."""
    paths = [folder / 'vis_data' / name for name in ('scalars.json', f'{folder.name}.json')]
    path = next((path for path in paths if path.is_file()), None)
    records: list[dict] = []
    if path is None:
        return records
    try:
        with open(path, 'rb') as stream:
            for line_number, line in enumerate(iter(lambda: stream.readline(LARGEST_LINE), b''), 1):
                try:
                    record = json.loads(line) if line.strip() else {}
                    if not isinstance(record, dict):
                        raise ValueError
                except (ValueError, RecursionError):
                    if stream.read(1):
                        notes.append(f'{path}: line {line_number} is not a record of MMEngine; the file is skipped')
                        return []
                    notes.append(f'{path}: its last line, {line_number}, is cut off; the line is skipped')
                    break
                records.append(record)
    except OSError as error:
        notes.append(f'{path}: {error.strerror}; skipped')
        return []
    return records


def split(records: list[dict]) -> tuple[list[dict], list[dict]]:
    """Splits records into those of training, with the numbers in use, and validations with our names."""
    train, val = [], []
    for record in records:
        metrics, step = as_metrics(record), number(record.get('step'))
        if metrics and step is not None:
            time = number(record.get('time'))
            val.append(dict(metrics, step=step, **({} if time is None else {'time': time})))
        elif number(record.get('iter')) is not None:
            kept = {key: number(record.get(key)) for key in ('iter', 'epoch', 'loss', 'time', 'memory')}
            train.append({key: value for key, value in kept.items() if value is not None})
    return train, val


def as_metrics(record: Any) -> dict[str, float]:
    """Returns the metrics of a record by our names, in percent, without COCO's −1 for what no image has."""
    metrics = {}
    for key, value in record.items() if isinstance(record, dict) else ():
        name, value = METRICS.get(str(key).split('/')[-1]), number(value)
        if name and value is not None and value >= 0:
            metrics[name] = round(value * (100 if '_ap' in name else 1), 4)
    return metrics


def read_object(path: Path, notes: list[str]) -> dict:
    """Reads a JSON file with one object, empty if there is none."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text()) if path.stat().st_size < LARGEST_CONFIG else None
    except (OSError, ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        return value
    notes.append(f'{path}: is not a JSON object; skipped')
    return {}


def read_log(path: Path) -> tuple[dict, int | None]:
    """Returns the environment at the head of a text log, and the number of batches of a validation."""
    environment: dict[str, Any] = {}
    batches = None
    if path.is_file():
        with open(path, errors='replace') as stream:
            in_environment = False
            for line in iter(lambda: stream.readline(LARGEST_LINE), ''):
                if line.startswith(('System environment:', 'Runtime environment:')):
                    in_environment = True
                elif line.startswith('-----'):
                    in_environment = False
                elif in_environment:
                    for name, pattern in ENVIRONMENT.items():
                        if match := re.fullmatch(pattern, line.strip()):
                            environment[name] = int(match[1]) if name in ('seed', 'processes') else match[1]
                elif match := VAL_IMAGES.search(line):
                    batches = int(match[1])
    return environment, batches


def read_config_dump(work_dir: Path, folders: list[Path], notes: list[str]) -> tuple[dict, str | None]:
    """Returns the settings of a config dump, read without running it, and the config's name."""
    paths = sorted((path for path in work_dir.glob('*.py') if path.is_file()), key=lambda path: path.stat().st_mtime)
    name = paths[-1].stem if paths else None
    paths += [path / 'vis_data/config.py' for path in folders if (path / 'vis_data/config.py').is_file()]
    for path in reversed(paths):
        try:
            if path.stat().st_size > LARGEST_CONFIG:
                raise ValueError
            return literal_settings(path.read_text()), name
        except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
            notes.append(f'{path}: is not a config as MMEngine writes them; skipped')
    return {}, name


def inner(cfg: dict, key: str) -> dict:
    """Returns a value that should be a dict, an empty one if it is not."""
    return cfg[key] if isinstance(cfg.get(key), dict) else {}


def epochs_done(work_dir: Path, train: list[dict], val: list[dict]) -> float | None:
    """Returns the complete epochs, by the last checkpoint's name, the last validation or the last epoch."""
    path = work_dir / 'last_checkpoint'
    match = re.search(r'epoch_(\d+)\.pth', path.read_text(errors='replace')[-200:]) if path.is_file() else None
    found = [int(match[1])] if match else []
    found += [one['step'] for one in val[-1:]] + [one['epoch'] - 1 for one in train[-1:] if 'epoch' in one]
    return max(found, default=None)


def median(values: list[float]) -> float | None:
    """Returns the median, None if there are no values."""
    return statistics.median(values) if values else None


def number(value: Any) -> float | None:
    """Returns a finite number, None for anything else."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and abs(value) < 1e300 and math.isfinite(value) else None


def string(value: Any) -> str | None:
    """Returns a text that is not empty, None for anything else."""
    return value if isinstance(value, str) and value else None


def thinned(points: list[tuple]) -> list[tuple]:
    """Returns at most as many points as a curve can show, the last included."""
    stride = max(1, math.ceil(len(points) / CURVE_POINTS))
    return points[::stride] + (points[-1:] if points and (len(points) - 1) % stride else [])
