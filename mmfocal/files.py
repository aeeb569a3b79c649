"""Writing files so that nobody ever sees one half written, whenever the process or the machine stops."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from mmfocal.errors import SavingError

NO_SPACE = {errno.ENOSPC, errno.EFBIG, getattr(errno, 'EDQUOT', errno.ENOSPC)}  # Windows has no quota


@contextmanager
def open_atomically(path: str | Path) -> Iterator[BinaryIO]:
    """Opens a file for writing that takes its place only when it is complete and on the disk.

    If the block raises, the file that was there before stays. Missing folders are created.

    Args:
        path: The file. Until it is complete it is a hidden file beside, `partial_path(path)`.

    Returns:
        A context with the binary file to write to.
    """
    path = Path(path)
    partial = partial_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(partial, 'wb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):  # it may not exist, or stays until the next clean-up
            os.remove(partial)
        raise
    _sync_folder(path.parent)


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Writes a whole file, or leaves the one that was there before.

    Args:
        path: The file. Missing folders are created.
        content: Its bytes, or text, which is encoded as UTF-8.

    Raises:
        SavingError: If it cannot be written; for lack of space with the number of bytes needed and free.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        with open_atomically(path) as file:
            file.write(data)
    except OSError as error:
        reason = f'{path} cannot be saved: {error.strerror or error}'
        if error.errno in NO_SPACE:
            free = shutil.disk_usage(Path(path).parent).free
            reason += (
                f'; it needs {len(data)} bytes ({len(data) / 2**20:.1f} MiB), and {free} ({free / 2**20:.1f} MiB) are '
                'free on its disk; make room (or raise the quota)'
            )
        raise SavingError(reason) from error


def partial_path(path: str | Path) -> Path:
    """Returns the hidden file beside `path` that `open_atomically` writes to, one per process."""
    path = Path(path)
    return path.with_name(f'.{path.name}.{os.getpid()}.part')


def remove_partial_files(folder: str | Path) -> None:
    """Removes the partial files that killed processes have left in a folder, if there is one."""
    for path in Path(folder).glob('.*.part'):
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Puts the names in a folder on the disk, where the system can."""
    with suppress(OSError):  # Windows and some network file systems cannot
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
