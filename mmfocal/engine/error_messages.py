"""Errors as one line without a traceback: the user's, and what the machine lacks."""

import errno
import logging
import os
import re
import shutil
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from io import TextIOWrapper

from mmfocal.errors import UserError


@contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Exits with 1 and one line on stderr for an error that the user can fix; others keep their traceback."""
    logging.raiseExceptions = False  # a full disk would print a traceback for each line that the log cannot write
    if isinstance(sys.stdout, TextIOWrapper):  # a terminal may not have the letters of a path or of a class
        sys.stdout.reconfigure(errors='backslashreplace')
    try:
        yield
    except BrokenPipeError:  # the reader of the output, such as head, has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except Exception as error:
        message = _message(error)
        if message is None:
            raise
        print(f'error: {message}', file=sys.stderr)
        raise SystemExit(1) from None


def _message(error: Exception) -> str | None:
    """Returns what is wrong and what to do, or None if only a traceback tells."""
    text = str(error)
    in_worker = '\nOriginal Traceback' in text  # how PyTorch passes on an error of a data loader's worker
    if in_worker:
        text = text.splitlines()[-1].split(': ', 1)[-1]
    if isinstance(error, UserError):
        return text
    if isinstance(error, TypeError) and 'unexpected keyword argument' in text:
        return f'{text}; check the spelling of that config key'
    if isinstance(error, ImportError):
        return _missing_package(error)
    return _machine(error, text, in_worker)


def _missing_package(error: ImportError) -> str | None:
    """Returns the message for a package that is not installed, also where a library has put its own error on top."""
    cause: BaseException | None = error
    while cause and not (isinstance(cause, ModuleNotFoundError) and cause.name):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return None
    package = cause.name.partition('.')[0]
    if package == 'mmfocal' or find_spec(package):  # a module of an installed package: a fault of its code
        return None
    user = traceback.extract_tb(cause.__traceback__)[-1].filename
    return f'{package}: package not installed, and {user} imports it; pip install {package}'


def _machine(error: Exception, text: str, in_worker: bool) -> str | None:
    """Returns the message for what the machine lacks: shared memory, memory, open files, space or permissions."""
    story = f'{error.__cause__} {error.__context__} {text}'
    frames = traceback.extract_tb(error.__traceback__)
    is_semaphore = isinstance(error, OSError) and frames[-1].filename.endswith('multiprocessing/synchronize.py')
    if 'shared memory' in story or is_semaphore:
        size = shutil.disk_usage('/dev/shm').total if os.path.isdir('/dev/shm') else 0
        return (
            f'/dev/shm ({size / 2**20:.0f} MiB): full or not writable, but data loader workers need it; start the '
            f'container with --shm-size=8g, remount it with size=8g, or {_FEWER_WORKERS}'
        )
    is_memory = isinstance(error, MemoryError) or "can't allocate memory" in text
    if 'is killed by signal: Killed' in story or in_worker and is_memory:
        return f'data loader: a worker ran out of memory; {_FEWER_WORKERS}'
    if isinstance(error, UnicodeError) and sys.getfilesystemencoding() != 'utf-8':
        return f'{text}; Python reads files and paths as {sys.getfilesystemencoding()}: export PYTHONUTF8=1'
    if 'Too many open files' in story:
        return f'too many open files; raise the limit (ulimit -n 65536), or {_FEWER_WORKERS}'
    for numbers, advice in _DISK:
        if isinstance(error, OSError) and re.search('|'.join(map(os.strerror, numbers)), text):
            return f'{text}; {advice}, or choose another folder, for example with --work-dir'
    return None


_FEWER_WORKERS = (
    'lower train_dataloader.num_workers and val_dataloader.num_workers (0, with persistent_workers=False, loads in the '
    'training process)'
)
_DISK = (
    ((errno.ENOSPC, getattr(errno, 'EDQUOT', errno.ENOSPC)), 'free some space'),  # Windows has no quota
    ((errno.EROFS, errno.EACCES, errno.EPERM), 'change the permissions'),
)
