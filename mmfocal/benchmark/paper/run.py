"""`tools/benchmark.py run`: trains and tests the cells of one of the paper's tables, one after another or as Slurm jobs."""

import argparse
import fcntl
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from mmfocal.benchmark.environment import git_commit, package_versions
from mmfocal.benchmark.paper.collect import RECORD, read_record
from mmfocal.benchmark.paper.tables import BACKBONES, METHODS, NANO_BACKBONES, shapes_rows, table_rows
from mmfocal.errors import ConfigError, UserError

PATIENCE = 30  # seconds that a stopped job has before it is killed
ERROR = re.compile(r'^(?:\[rank\d+\]: *)?((?:[\w.]*(?:Error|Exception)|error): .+)')
LAUNCHER_SAYS = ('torch.distributed.elastic', 'ChildFailedError', 'SignalException')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `tools/benchmark.py run`."""
    parser.add_argument('--table', required=True, metavar='N', help="the paper's Table 3, 4, 5 or ADE20K")
    parser.add_argument('--work-root', required=True, metavar='DIR', help='gets a work directory for each cell')
    parser.add_argument(
        '--shapes',
        action='store_true',
        help="the table's methods with small backbones on the generated shapes (SHAPES_ROOT), on a laptop",
    )
    parser.add_argument(
        '--only',
        metavar='NAME,…',
        help='methods and backbones as configs name them, or configs: --only atss,focal_tiny',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm'],
        default='none',
        help='none: one process; pytorch: dist_train.sh; slurm: slurm_train.sh, all cells at once, a job each',
    )
    parser.add_argument(
        '--gpus', type=int, metavar='N', help="a cell, for pytorch and slurm (default: 8, the paper's batch of 16)"
    )
    parser.add_argument('--partition', metavar='NAME', help='of Slurm')
    parser.add_argument('--dry-run', action='store_true', help='print the commands, and run none')
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='override settings of every config'
    )


def main(args: argparse.Namespace) -> None:
    """Runs the cells that are not finished, goes past those that fail, and says at the end which and why.

    Args:
        args (argparse.Namespace): Of `add_arguments`, and `configs`, the folder with the configs, beside which there is tools/.

    Raises:
        ConfigError: If an argument cannot work, or a cell was begun with other settings.
        SystemExit: With 1 if a cell failed, with 130 if it was stopped.
    """
    cells, absent = select(args)
    if absent:
        print(f'No library has {", ".join(absent)}: left out.')
    if args.dry_run:
        print('\n'.join(line for cell in cells for line in described(cell, args)))
        return
    for cell in cells:
        refuse_other_settings(cell, args)
    jobs = Jobs()
    pool = ThreadPoolExecutor(len(cells) if args.launcher == 'slurm' else 1)
    with stopped_by_signals():
        try:
            outcomes = [pool.submit(run_cell, cell, args, jobs) for cell in cells]
            wait(outcomes)
        except KeyboardInterrupt:
            print('\nstopping', flush=True)
            pool.shutdown(wait=False, cancel_futures=True)
            jobs.stop()
            pool.shutdown()
            print('stopped; the same command goes on from the last checkpoints')
            raise SystemExit(130) from None
    failed = summarise([(cell['config'], outcome.result()) for cell, outcome in zip(cells, outcomes)])
    print(f'Next: tools/benchmark.py report {shlex.quote(args.work_root)}')
    if failed:
        raise SystemExit(1)


def select(args: argparse.Namespace) -> tuple[list[dict], list[str]]:
    """The cells that the arguments ask for, and the backbones of the table that have no config.

    Raises:
        ConfigError: If an argument cannot work.
    """
    if args.launcher == 'none' and args.gpus:
        raise ConfigError('--gpus needs --launcher pytorch or slurm')
    if (args.launcher == 'slurm') != bool(args.partition):
        raise ConfigError('--launcher slurm and --partition NAME need each other')
    args.gpus = 1 if args.launcher == 'none' else 8 if args.gpus is None else args.gpus
    if args.gpus < 1:
        raise ConfigError(f'--gpus {args.gpus}: must be at least 1')
    rows = shapes_rows(args.table) if args.shapes else table_rows(args.table)
    backbones = {**BACKBONES, **NANO_BACKBONES}
    cells = [
        dict(
            row,
            names=(METHODS[row['method']], backbones[row['backbone']], row['config']),
            work_dir=Path(args.work_root, row['config']),
        )
        for row in rows
        if row['config']
    ]
    for cell in cells:
        cell['path'] = args.configs / f'{cell["config"]}.py'
        if not cell['path'].is_file():
            raise ConfigError(f'--table {args.table}: there is no {cell["path"]}')
    for names in asked(args.only, cells):
        cells = [cell for cell in cells if names & set(cell['names'])]
    if not cells:
        raise ConfigError(f'--only {args.only}: no cell of the table has all of these')
    return cells, [] if args.only else sorted({row['backbone'] for row in rows if not row['config']})


def asked(only: str | None, cells: list[dict]) -> Iterator[set]:
    """The names in --only by kind: methods, backbones, configs."""
    names = {name.strip() for name in only.split(',')} if only else set()
    for kind in zip(*(cell['names'] for cell in cells)):
        if names & set(kind):
            yield names & set(kind)
        names -= set(kind)
    if names:
        known = list(dict.fromkeys(name for kind in zip(*(cell['names'][:2] for cell in cells)) for name in kind))
        raise ConfigError(f'--only: no cell is called {", ".join(sorted(names))}; there are {", ".join(known)}')


def steps(cell: dict, args: argparse.Namespace) -> Iterator[tuple[str, dict[str, str], list[str], Path]]:
    """What a cell runs in order, decided as late as each begins: name, environment, command, work directory."""
    tools, config, work_dir = args.configs.parent / 'tools', str(cell['path']), cell['work_dir']
    options = ['--cfg-options', *args.cfg_options] if args.cfg_options else []
    resume = ['--resume'] if (work_dir / 'last_checkpoint').is_file() else []
    yield (
        'train',
        *launch(args, tools, 'train', cell, [config], work_dir, [*resume, '--auto-scale-lr', *options]),
        work_dir,
    )
    checkpoint = last_checkpoint(work_dir, args.dry_run)
    for name, more in (('test', []), ('test_tta', ['--tta']))[
        : 1 + (cell['task'] == 'segmentation')
    ]:  # mIoU, and multi-scale mIoU
        yield (
            name,
            *launch(args, tools, 'test', cell, [config, checkpoint], work_dir / name, [*more, *options]),
            work_dir / name,
        )


def launch(args, tools, name, cell, files, work_dir, options):
    """Environment and command of a step."""
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
    """The checkpoint that training ended with; of a dry run the shell's words for it, where there is none yet.

    Raises:
        UserError: If there is none.
    """
    path = work_dir / 'last_checkpoint'
    if path.is_file():
        return path.read_text().strip()
    if dry_run:
        return f'$(cat {shlex.quote(str(path))})'
    raise UserError(f'training ended without a checkpoint: {path} is not there')


def described(cell: dict, args: argparse.Namespace) -> Iterator[str]:
    """A cell's commands as one would type them."""
    if finished(cell):
        yield f'# {cell["config"]}: finished'
        return
    for _, environment, command, _ in steps(cell, args):
        words = [f'{key}={value}' for key, value in environment.items()]
        yield ' '.join(words + [f'"{word}"' if word.startswith('$(cat ') else shlex.quote(word) for word in command])


def finished(cell: dict) -> bool:
    return 'metrics' in read_record(cell['work_dir'])


def write_record(work_dir: Path, record: dict) -> None:
    """Replaces a cell's record, so that there is always the old one or the new one."""
    temporary = work_dir / f'{RECORD}.{os.getpid()}'
    temporary.write_text(json.dumps(record, indent=1, ensure_ascii=False) + '\n')
    temporary.replace(work_dir / RECORD)


def refuse_other_settings(cell: dict, args: argparse.Namespace) -> None:
    """A cell must not go on, nor count as finished, with other settings than it was begun with.

    Raises:
        ConfigError: If it would.
    """
    before = read_record(cell['work_dir'])
    for key, now, flag in (('cfg_options', args.cfg_options, '--cfg-options'), ('gpus', args.gpus, '--gpus')):
        if before.get(key, now) != now:
            was = ' '.join(map(str, before[key])) if isinstance(before[key], list) else before[key]
            raise ConfigError(
                f'{cell["work_dir"]} was begun with {flag} {was or "(none)"}: give the same, or another --work-root'
            )


def run_cell(cell: dict, args: argparse.Namespace, jobs: 'Jobs') -> str | None:
    """Trains and tests a cell.

    Returns:
        Optional[str]: None if it is done, 'finished before', or why it failed.
    """
    name, work_dir = cell['config'], cell['work_dir']
    if finished(cell):
        return 'finished before'
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        with open(work_dir / '.lock', 'w') as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # its jobs hold it too, should they outlive this process
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
        sentence = f'another run, or a job that it left behind, is at work in {work_dir}'
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
    """What the newest test in a work directory measured.

    Raises:
        UserError: If it has left nothing.
    """
    paths = sorted(path for path in work_dir.glob('*/*.json') if path.stem == path.parent.name)
    try:
        metrics = json.loads(paths[-1].read_text()) if paths else None
    except (OSError, ValueError):
        metrics = None
    if not isinstance(metrics, dict):
        raise UserError(f'{work_dir}: the test has left no results')
    return {key: value for key, value in metrics.items() if isinstance(value, (int, float)) and math.isfinite(value)}


def last_error(log: Path, start: int) -> str:
    """The sentence a job ended with: the last error in its output from byte `start` on, or else its last line."""
    with open(log, 'rb') as stream:
        stream.seek(max(start, log.stat().st_size - 2**20))
        lines = [line.strip() for line in stream.read().decode(errors='replace').splitlines() if line.strip()]
    errors = [
        match[1] for line in lines if (match := ERROR.match(line)) and not any(word in line for word in LAUNCHER_SAYS)
    ]
    return (errors or lines or ['it said nothing'])[-1][:500]


def summarise(outcomes: list[tuple[str, str | None]]) -> list[str]:
    """Prints what has become of the cells, and gives the names of those that failed."""
    before = [name for name, outcome in outcomes if outcome == 'finished before']
    failed = {name: outcome for name, outcome in outcomes if outcome and outcome != 'finished before'}
    print(f'\n{len(outcomes) - len(before) - len(failed)} done, {len(before)} finished before, {len(failed)} failed')
    for name, sentence in failed.items():
        print(f'- {name}: {sentence}')
    return list(failed)


class Jobs:
    """The processes that run, each with its children in a group of its own, so that all of it can be stopped."""

    def __init__(self):
        self.processes, self.lock, self.stopping = set(), threading.Lock(), False

    def call(self, command: list[str], environment: dict[str, str], log: Path, cell_lock) -> None:
        """Runs a command; its output is added to the log.

        Raises:
            UserError: With the last error it printed, if it failed.
        """
        path = (
            f'{Path(sys.executable).parent}{os.pathsep}{os.environ.get("PATH", "")}'  # the shell scripts call `python`
        )
        with open(log, 'ab') as stream:
            start = stream.tell()
            with self.lock:
                if self.stopping:
                    raise UserError('stopped')
                process = subprocess.Popen(
                    command,
                    env={**os.environ, 'PATH': path, **environment},
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=[cell_lock.fileno()],
                )
                self.processes.add(process)
            code = process.wait()
            with self.lock:
                self.processes.discard(process)
        if self.stopping:
            raise UserError('stopped')
        if code:
            why = f'killed by signal {-code}' if code < 0 else last_error(log, start)
            raise UserError(f'{why} (exit code {code}, {log})')

    def stop(self) -> None:
        """Ends them all, with patience and then without."""
        with self.lock:
            self.stopping = True
            processes = list(self.processes)
        for number, patience in ((signal.SIGTERM, PATIENCE), (signal.SIGKILL, None)):
            for process in processes:
                if process.poll() is None:
                    os.killpg(process.pid, number)
            try:
                until = time.monotonic() + (patience or PATIENCE)
                for process in processes:
                    process.wait(max(0.0, until - time.monotonic()))
                return
            except (subprocess.TimeoutExpired, KeyboardInterrupt):  # Ctrl-C again: at once
                continue


@contextmanager
def stopped_by_signals():
    """What ends a batch job or closes a terminal stops a run like Ctrl-C does."""

    def interrupt(*_):
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Python ignores SIGINT in a shell's background jobs
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before):
            signal.signal(number, handler)
