"""Trains and tests the cells of one of the paper's tables, one after another or as Slurm jobs."""

import argparse
import fcntl
import json
import math
import os
import shlex
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from mmfocal.benchmark.environment import git_commit, package_versions
from mmfocal.benchmark.paper.collect import RECORD, read_record
from mmfocal.benchmark.paper.jobs import Jobs, interrupt_on_signals
from mmfocal.benchmark.paper.tables import METHODS, shapes_rows, table_rows
from mmfocal.errors import ConfigError, UserError
from mmfocal.files import write_atomically


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `tools/benchmark.py run`."""
    parser.add_argument('--table', required=True, metavar='N', help="the paper's Table 2, 3, 4, 5, 8, 9, 10 or ADE20K")
    parser.add_argument('--work-root', required=True, metavar='DIR', help='gets a work directory per cell')
    parser.add_argument(
        '--shapes',
        action='store_true',
        help="the table's methods with small backbones on the generated shapes (SHAPES_ROOT), on a laptop",
    )
    parser.add_argument(
        '--only',
        metavar='NAME,…',
        help='methods and backbones by their names in configs, or configs: --only atss,focal_tiny',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm'],
        default='none',
        help='none: one process; pytorch: dist_train.sh; slurm: slurm_train.sh, one job per cell, all at once',
    )
    parser.add_argument(
        '--gpus',
        type=int,
        metavar='N',
        help="GPUs per cell, for pytorch and slurm (default: 8, the paper's batch of 16)",
    )
    parser.add_argument('--partition', metavar='NAME', help="Slurm's partition")
    parser.add_argument('--dry-run', action='store_true', help='print the commands without running them')
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='override settings of every config'
    )


def main(args: argparse.Namespace) -> None:
    """Runs the unfinished cells, continues after failures, and lists them at the end.

    Args:
        args: Of `add_arguments`, and `configs`, the folder with the configs, which is beside tools/.

    Raises:
        ConfigError: If arguments do not fit together, or a cell was started with other settings.
        SystemExit: With 1 if a cell failed, with 130 after an interruption.
    """
    cells = select(args)
    if args.dry_run:
        print('\n'.join(line for cell in cells for line in described(cell, args)))
        return
    for cell in cells:
        refuse_other_settings(cell, args)
    jobs = Jobs()
    pool = ThreadPoolExecutor(len(cells) if args.launcher == 'slurm' else 1)
    with interrupt_on_signals():
        try:
            outcomes = []
            for classifiers in (True, False):  # an ablation's detectors start from its classifiers
                now_due = [cell for cell in cells if (cell['task'] == 'classification') == classifiers]
                outcomes += (submitted := [pool.submit(run_cell, cell, args, jobs) for cell in now_due])
                wait(submitted)
        except KeyboardInterrupt:
            print('\nstopping', flush=True)
            pool.shutdown(wait=False, cancel_futures=True)
            jobs.stop()
            pool.shutdown()
            print('stopped; the same command resumes from the last checkpoints')
            raise SystemExit(130) from None
    failed = summarize([(cell['config'], outcome.result()) for cell, outcome in zip(cells, outcomes)])
    print(f'Next: tools/benchmark.py report {shlex.quote(args.work_root)}')
    if failed:
        raise SystemExit(1)


def select(args: argparse.Namespace) -> list[dict]:
    """Returns the cells that the arguments ask for.

    Raises:
        ConfigError: If arguments do not fit together.
    """
    if args.launcher == 'none' and args.gpus:
        raise ConfigError('--gpus: needs --launcher pytorch or slurm; add one or leave it out')
    if (args.launcher == 'slurm') != bool(args.partition):
        raise ConfigError('--launcher slurm: needs --partition NAME, and --partition needs it; give both or neither')
    args.gpus = 1 if args.launcher == 'none' else 8 if args.gpus is None else args.gpus
    if args.gpus < 1:
        raise ConfigError(f'--gpus {args.gpus}: is not a number of GPUs; give at least 1')
    rows = shapes_rows(args.table) if args.shapes else table_rows(args.table)
    if not rows:
        raise ConfigError(f'--shapes: Table {args.table} has none; choose Table 3, 4, 5 or ADE20K')
    cells = [
        dict(
            row,
            names=(METHODS[row['method']], row['name'], row['config']),
            work_dir=Path(args.work_root, row['config']),
        )
        for row in rows
    ]
    for cell in cells:
        cell['path'] = args.configs / f'{cell["config"]}.py'
        if not cell['path'].is_file():
            raise ConfigError(f'--table {args.table}: {cell["path"]} does not exist')
    for names in asked(args.only, cells):
        cells = [cell for cell in cells if names & set(cell['names'])]
    if not cells:
        raise ConfigError(f'--only {args.only}: no cell of the table matches all of them; give fewer names')
    chosen = {cell['config'] for cell in cells}
    for cell in cells:
        cell['classifier_due'] = cell.get('pretraining') in chosen
    return cells


def asked(only: str | None, cells: list[dict]) -> Iterator[set]:
    """Yields the names in --only by kind: methods, backbones, configs."""
    names = {name.strip() for name in only.split(',')} if only else set()
    for kind in zip(*(cell['names'] for cell in cells)):
        if names & set(kind):
            yield names & set(kind)
        names -= set(kind)
    if names:
        known = list(dict.fromkeys(name for kind in zip(*(cell['names'][:2] for cell in cells)) for name in kind))
        raise ConfigError(f'--only: no cell is named {", ".join(sorted(names))}; choose from {", ".join(known)}')


def steps(cell: dict, args: argparse.Namespace) -> Iterator[tuple[str, dict[str, str], list[str], Path]]:
    """Yields name, environment, command and work directory of a cell's steps, each only when it is due."""
    tools, config, work_dir = args.configs.parent / 'tools', str(cell['path']), cell['work_dir']
    weights = pretrained(cell, args)
    options = ['--cfg-options', *args.cfg_options] if args.cfg_options else []
    resume = ['--resume'] if (work_dir / 'last_checkpoint').is_file() else []
    environment, command = launch(
        args, tools, 'train', cell, [config], work_dir, [*resume, '--auto-scale-lr', *options]
    )
    yield 'train', {**weights, **environment}, command, work_dir
    checkpoint = last_checkpoint(work_dir, args.dry_run)
    for name, more in (('test', []), ('test_tta', ['--tta']))[
        : 1 + (cell['task'] == 'segmentation')
    ]:  # mIoU, and multi-scale mIoU
        yield (
            name,
            *launch(args, tools, 'test', cell, [config, checkpoint], work_dir / name, [*more, *options]),
            work_dir / name,
        )


def pretrained(cell: dict, args: argparse.Namespace) -> dict[str, str]:
    """Returns the variable with the weights of an ablation's detector: those of its classifier in the same work root.

    A variable that is set stays. Without the classifier's checkpoint there is none, and the training says so.
    """
    variable, work_dir = cell['name'].upper(), Path(args.work_root, cell.get('pretraining', ''))
    if 'pretraining' not in cell or variable in os.environ:
        return {}
    due = args.dry_run and cell['classifier_due']
    return {variable: last_checkpoint(work_dir, due)} if due or finished(dict(work_dir=work_dir)) else {}


def launch(
    args: argparse.Namespace, tools: Path, name: str, cell: dict, files: list[str], work_dir: Path, options: list[str]
) -> tuple[dict[str, str], list[str]]:
    """Returns environment and command of a step, 'train' or 'test'."""
    if args.launcher == 'slurm':
        environment = dict(GPUS=str(args.gpus), GPUS_PER_NODE=str(min(args.gpus, 8)))
        command = [str(tools / f'slurm_{name}.sh'), args.partition, cell['config'], *files]
        return environment, command + (
            [str(work_dir), *options] if name == 'train' else ['--work-dir', str(work_dir), *options]
        )
    if args.launcher == 'pytorch':
        command = [str(tools / f'dist_{name}.sh'), *files, str(args.gpus)]
    else:
        command = [sys.executable, str(tools / f'{name}.py'), *files]
    return {}, [*command, '--work-dir', str(work_dir), *options]


def last_checkpoint(work_dir: Path, dry_run: bool) -> str:
    """Returns the checkpoint that training ended with; before that, a dry run gets a shell expression for it.

    Raises:
        UserError: If there is none.
    """
    path = work_dir / 'last_checkpoint'
    if path.is_file():
        return path.read_text().strip()
    if dry_run:
        return f'$(cat {shlex.quote(str(path))})'
    raise UserError(f'{path}: does not exist; training ended without a checkpoint')


def described(cell: dict, args: argparse.Namespace) -> Iterator[str]:
    """Yields a cell's commands as one types them in a shell."""
    if finished(cell):
        yield f'# {cell["config"]}: finished'
        return
    for _, environment, command, _ in steps(cell, args):
        words = [f'{key}={quoted(value)}' for key, value in environment.items()]
        yield ' '.join(words + [quoted(word) for word in command])


def quoted(word: str) -> str:
    """Quotes a word for a shell, which replaces the expressions of `last_checkpoint`."""
    return f'"{word}"' if word.startswith('$(cat ') else shlex.quote(word)


def finished(cell: dict) -> bool:
    return 'metrics' in read_record(cell['work_dir'])


def write_record(work_dir: Path, record: dict) -> None:
    """Replaces a cell's record."""
    write_atomically(work_dir / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + '\n')


def refuse_other_settings(cell: dict, args: argparse.Namespace) -> None:
    """Raises ConfigError if a cell was started with other settings."""
    before = read_record(cell['work_dir'])
    for key, now, flag in (('cfg_options', args.cfg_options, '--cfg-options'), ('gpus', args.gpus, '--gpus')):
        if before.get(key, now) != now:
            was = ' '.join(map(str, before[key])) if isinstance(before[key], list) else before[key]
            raise ConfigError(
                f'{cell["work_dir"]}: was started with {flag} {was or "(none)"}; give the same or another --work-root'
            )


def run_cell(cell: dict, args: argparse.Namespace, jobs: Jobs) -> str | None:
    """Trains and tests a cell.

    Returns:
        None if it is done, 'finished before', or why it failed.
    """
    name, work_dir = cell['config'], cell['work_dir']
    if finished(cell):
        return 'finished before'
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        with open(work_dir / '.lock', 'w') as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # its jobs hold it too, as they may outlive this process
            record = dict(
                config=name,
                table=cell['table'],
                method=cell['method'],
                backbone=cell['backbone'],
                shapes=args.shapes,
                launcher=args.launcher,
                gpus=args.gpus,
                cfg_options=args.cfg_options,
                commit=git_commit(),
                packages=package_versions(),
                begun=now(),
            )
            write_record(work_dir, record)
            try:
                metrics = {}
                for step, environment, command, folder in steps(cell, args):
                    log = work_dir / f'{step}.out'
                    print(f'{now()} {name}: {step}, log in {log}', flush=True)
                    jobs.call(command, environment, log, lock)
                    if step != 'train':
                        metrics[step] = newest_metrics(folder)
            except UserError as error:
                if not jobs.stopping:
                    write_record(work_dir, dict(record, failed=str(error)))
                raise
            write_record(
                work_dir, dict(record, checkpoint=last_checkpoint(work_dir, False), metrics=metrics, ended=now())
            )
    except BlockingIOError:
        sentence = f'{work_dir}: is in use by another run or by a job of an earlier one'
    except (UserError, OSError) as error:
        sentence = str(error)
    else:
        print(f'{now()} {name}: done', flush=True)
        return None
    print(f'{now()} {name}: {sentence if jobs.stopping else f"failed: {sentence}"}', flush=True)
    return sentence


def now() -> str:
    return time.strftime('%Y-%m-%d %H:%M:%S')


def newest_metrics(work_dir: Path) -> dict:
    """Returns the metrics of the newest test in a work directory.

    Raises:
        UserError: If there are none.
    """
    paths = sorted(path for path in work_dir.glob('*/*.json') if path.stem == path.parent.name)
    try:
        metrics = json.loads(paths[-1].read_text()) if paths else None
    except (OSError, ValueError):
        metrics = None
    if not isinstance(metrics, dict):
        raise UserError(f'{work_dir}: the test wrote no results')
    return {key: value for key, value in metrics.items() if isinstance(value, (int, float)) and math.isfinite(value)}


def summarize(outcomes: list[tuple[str, str | None]]) -> list[str]:
    """Prints the outcomes of the cells and returns the names of those that failed."""
    before = [name for name, outcome in outcomes if outcome == 'finished before']
    failed = {name: outcome for name, outcome in outcomes if outcome and outcome != 'finished before'}
    print(f'\n{len(outcomes) - len(before) - len(failed)} done, {len(before)} finished before, {len(failed)} failed')
    for name, sentence in failed.items():
        print(f'- {name}: {sentence}')
    return list(failed)
