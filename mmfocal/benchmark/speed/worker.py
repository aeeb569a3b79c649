"""An implementation in its own process, on the CPU.

Implementations that share a process share the C library's allocator: what one frees changes how fast another allocates.
"""

import ctypes
import gc
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from mmfocal.benchmark.speed.cases import Case
from mmfocal.benchmark.speed.implementations import implementations
from mmfocal.benchmark.speed.measure import cpu_run
from mmfocal.benchmark.speed.steps import make_step
from mmfocal.memory import process_status, resident_memory

M_MMAP_THRESHOLD = -3  # of glibc's mallopt


class Worker:
    """A process for one implementation; what it raises is raised here.

    Args:
        threads: Threads of torch in the process.
    """

    def __init__(self, threads: int):
        self._pool = ProcessPoolExecutor(1, get_context('spawn'), _initialise, (threads,))

    def __enter__(self) -> 'Worker':
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def build(self, name: str, case: Case) -> None:
        """Builds the step that `run` runs."""
        self._call(_build, name, case)

    def run(self, count: int) -> float:
        """Runs the step `count` times and returns the seconds."""
        return self._call(_run, count)

    def peak_memory(self, name: str, case: Case) -> int:
        """Measures the peak memory of a step, in bytes; needs a fresh worker.

        It is the growth of the resident memory from before the model is built to the second step's peak. Libraries, and
        what they allocate in a first step, which a small model runs beforehand, are left out. The C library returns
        freed blocks at once, so that its fragmentation does not count.

        Raises:
            RuntimeError: If the system does not tell it.
        """
        return self._call(_peak_memory, name, case)

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        return self._pool.submit(function, *args).result()


_runs: list[Callable[[int], float]] = []  # of the process


def _initialise(threads: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # libraries may print
        os.dup2(null, stream)
    torch.set_num_threads(threads)


def _build(name: str, case: Case) -> None:
    _runs.append(cpu_run(make_step(implementations(case.what)[name], case)))


def _run(count: int) -> float:
    return _runs[-1](count)


def _peak_memory(name: str, case: Case) -> int:
    reset = Path('/proc/self/clear_refs')
    if not reset.exists():
        raise RuntimeError('only Linux reports the peak memory of a process')
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, 65536)
    implementation = implementations(case.what)[name]
    make_step(implementation, replace(case, height=64, width=64, batch=1, arch='nano'))()
    gc.collect()
    libc.malloc_trim(0)
    reset.write_text('5')  # the peak is the present size
    before = resident_memory()
    if _peak() > 1.1 * before:
        raise RuntimeError('the system does not reset the peak memory of a process')
    step = make_step(implementation, case)
    step()
    step()
    return _peak() - before


def _peak() -> int:
    return process_status('VmHWM') or 0
