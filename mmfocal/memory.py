"""Resident memory of processes."""

import sys
from pathlib import Path

try:
    import resource
except ModuleNotFoundError:  # Windows
    resource = None  # type: ignore[assignment]


def peak_resident_memory() -> int | None:
    """Returns the most bytes that this process has had in memory, or None on Windows."""
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else 1024 * peak


def resident_memory(process: int | str = 'self') -> int:
    """Returns the bytes that a process has in memory, those it shares with others included (Linux only)."""
    size = process_status('VmRSS', process)
    assert size is not None, 'the kernel lists VmRSS for every process that has memory'
    return size


def process_status(key: str, process: int | str = 'self') -> int | None:
    """Returns a size from `/proc/<process>/status` in bytes, such as that of VmHWM, or None if it is not listed."""
    for line in Path(f'/proc/{process}/status').read_text().splitlines():
        if line.startswith(f'{key}:'):
            return 1024 * int(line.split()[1])
    return None
