"""Peak memory of one step. As a program, a fresh process that measures one contender on the CPU: see `cpu_peak`."""

import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch

from mmfocal.benchmark.speed.contenders import Case, contenders, first_line, make_step


def cuda_peak(step: Callable, own: int) -> int:
    """Peak memory of a warmed-up step on the GPU.

    Args:
        step (Callable): Runs once.
        own (int): Bytes that the contender holds between its steps: weights and images.

    Returns:
        int: Those and what the step allocates, in bytes; other contenders' weights are left out.
    """
    torch.cuda.synchronize()
    others = torch.cuda.memory_allocated() - own
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - others


def cpu_peak(name: str, case: Case, threads: int) -> tuple[int | None, str]:
    """Peak memory of a step on the CPU, in a process of its own.

    What counts is the growth of the resident memory from before the model is built to the second step's peak. Libraries, and
    what they set up in a first step, which a small model does beforehand, are left out. The C library returns freed blocks
    at once there, so that its fragmentation does not count.

    Args:
        name (str): A contender that ran.
        case (Case): What to run, not compiled.
        threads (int): Of torch.

    Returns:
        Tuple[Optional[int], str]: Bytes, and ''; or None, and why they could not be measured.
    """
    if not Path('/proc/self/clear_refs').exists():
        return None, 'only Linux tells a process its peak memory'
    task = json.dumps(dict(name=name, case=asdict(case), threads=threads))
    done = subprocess.run(
        [sys.executable, '-m', 'mmfocal.benchmark.speed.memory', task],
        capture_output=True,
        text=True,
        env=os.environ | {'MALLOC_MMAP_THRESHOLD_': '65536', 'PYTHONWARNINGS': 'ignore'},
    )
    if done.returncode == 0:
        answer = json.loads(done.stdout.splitlines()[-1])
        return answer['bytes'], answer['reason']
    said = done.stderr.strip().splitlines() or ['no message']
    return None, f'the measuring process ended with {done.returncode}: {said[-1]}'


def _peak_of_this_process(name: str, case: Case) -> dict:
    contender = contenders(case.what)[name]
    make_step(contender, replace(case, height=64, width=64, batch=1, arch='nano'))()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    try:
        Path('/proc/self/clear_refs').write_text('5')  # the peak is the present size
    except OSError as error:
        return dict(bytes=None, reason=f'the peak memory cannot be reset: {first_line(error)}')
    before = _resident('VmRSS')
    if before is None or _resident('VmHWM') > 1.1 * before:
        return dict(bytes=None, reason="the system does not reset a process's peak memory")
    step = make_step(contender, case)
    step()
    step()
    return dict(bytes=_resident('VmHWM') - before, reason='')


def _resident(key):
    """A size of this process in bytes."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(f'{key}:'):
            return int(line.split()[1]) * 1024
    return None


if __name__ == '__main__':
    task = json.loads(sys.argv[1])
    torch.set_num_threads(task['threads'])
    print(json.dumps(_peak_of_this_process(task['name'], Case(**task['case']))))
