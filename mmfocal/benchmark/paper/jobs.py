"""Processes that run a training or a test, and that all stop on a signal."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from mmfocal.errors import UserError

PATIENCE = 30  # seconds between SIGTERM and SIGKILL
ERROR = re.compile(r'^(?:\[rank\d+\]: *)?((?:[\w.]*(?:Error|Exception)|error): .+)')
LAUNCHER_LINES = ('torch.distributed.elastic', 'ChildFailedError', 'SignalException')


class Jobs:
    """Running processes, each in its own process group with its children, so that `stop` reaches them all."""

    def __init__(self) -> None:
        self.processes: set[subprocess.Popen] = set()
        self.lock, self.stopping = threading.Lock(), False

    def call(self, command: list[str], environment: dict[str, str], log: Path, cell_lock: TextIO) -> None:
        """Runs a command and appends its output to the log.

        Args:
            command: Program and arguments.
            environment: Variables in addition to this process's.
            log: Output file.
            cell_lock: Locked file that the command holds too, as it may outlive this process.

        Raises:
            UserError: With the last error that the command printed, if it failed.
        """
        python = str(Path(sys.executable).parent)  # the shell scripts call `python`
        path = os.pathsep.join([python, os.environ.get('PATH', '')])
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
        """Terminates all processes, and kills those that do not end in time."""
        with self.lock:
            self.stopping = True
            processes = list(self.processes)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in processes:
                if process.poll() is None:
                    os.killpg(process.pid, number)
            try:
                until = time.monotonic() + PATIENCE
                for process in processes:
                    process.wait(max(0.0, until - time.monotonic()))
                return
            except (subprocess.TimeoutExpired, KeyboardInterrupt):  # Ctrl-C again: kill at once
                continue


def last_error(log: Path, start: int) -> str:
    """Returns the last error in a job's output from byte `start` on, or else its last line."""
    with open(log, 'rb') as stream:
        stream.seek(max(start, log.stat().st_size - 2**20))
        lines = [line.strip() for line in stream.read().decode(errors='replace').splitlines() if line.strip()]
    errors = [
        match[1] for line in lines if (match := ERROR.match(line)) and not any(word in line for word in LAUNCHER_LINES)
    ]
    return (errors or lines or ['it printed nothing'])[-1][:500]


@contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """Turns the signals that end a batch job or close a terminal into KeyboardInterrupt."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Python ignores SIGINT in a shell's background jobs
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before):
            signal.signal(number, handler)
