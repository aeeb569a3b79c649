"""Reader of torch's own files that runs no code: the one place that says what a `.pth` file may hold.

A pickle names functions, and reading it calls them. torch's `weights_only` reader calls only those that build tensors,
but MMEngine's checkpoints hold HistoryBuffers, NumPy arrays and NumPy numbers too: this module has stand-ins for them.
"""

import os
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from mmfocal.errors import CheckpointError


def read_torch_file(path: str, map_location: Any = 'cpu') -> Any:
    """Reads what `torch.save` wrote.

    Args:
        path: The file.
        map_location: As for `torch.load`.

    Raises:
        CheckpointError: If the file is damaged or asks for code. Nothing was run.
    """
    _check_zip(path)
    try:
        with torch.serialization.safe_globals(_ALLOWED):  # for this call, not for the whole process
            return torch.load(path, map_location=map_location, weights_only=True)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # damaged bytes, read as a pickle's instructions, end in any kind of error
        refused = re.search(r'GLOBAL (\S+)|(?:build|create) .*got (<.+>)|function (<.+>)', str(error))
        if refused:
            raise code_refused(path, next(filter(None, refused.groups()))) from error
        reason = type(error).__name__
        if isinstance(error, RuntimeError):  # torch's own words: the first sentence, without its advice
            reason = re.split(r'\n|\. ', str(error))[0]
        raise damaged(path, reason) from error


def code_refused(path: str, name: str) -> CheckpointError:
    """Returns the error of a file that names a function or class outside the allow-list."""
    return CheckpointError(
        f'{path}: it asks for {name}, which could run code (nothing was run); '
        'use a file that holds only tensors, numbers and text'
    )


def damaged(path: str, reason: str) -> CheckpointError:
    """Returns the error of a file that cannot be read."""
    return CheckpointError(f'{path}: truncated or not a checkpoint ({reason}); download it again or use another file')


def _check_zip(path: str) -> None:
    """Raises CheckpointError if a ZIP archive unpacks to more than its size: torch stores, and does not compress."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, ValueError) as error:
        raise damaged(path, str(error)) from error
    size = os.path.getsize(path)
    if unpacked > size:
        raise CheckpointError(
            f'{path}: a compressed archive of {unpacked} bytes in {size}, which torch never writes; use another file'
        )


# Stand-ins. The classes themselves would do harm: numpy.ndarray takes the file's bytes for addresses of
# objects (dtype 'O'), and HistoryBuffer adds the file's functions to the statistics of the whole process.


class _HistoryBuffer(HistoryBuffer):
    def __setstate__(self, state: dict[str, Any]) -> None:
        HistoryBuffer.__init__(self, state['_log_history'], state['_count_history'], state['max_length'])
        self.__class__ = HistoryBuffer


def _statistics_method(owner: type, name: str) -> Callable:
    """Stands in for `getattr`, by which a HistoryBuffer's pickle lists its statistics."""
    if owner is not _HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise pickle.UnpicklingError(f'GLOBAL builtins.getattr({name!r})')
    return getattr(HistoryBuffer, name)


class _Dtype:
    def __init__(self, code: str, align: bool = False, copy: bool = False):
        if not re.fullmatch('[biuf][0-9]{1,2}', code):
            raise pickle.UnpicklingError(f'GLOBAL numpy.dtype({code!r})')
        self.numpy = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        self.numpy = self.numpy.newbyteorder(state[1])


class _Array(np.ndarray):
    def __new__(cls, *_: Any):
        return super().__new__(cls, (0,))

    def __setstate__(self, state: tuple) -> None:
        version, shape, dtype, is_fortran, data = state
        super().__setstate__((version, shape, dtype.numpy, is_fortran, data))

    def __reduce_ex__(self, protocol):
        return np.asarray(self).__reduce_ex__(protocol)  # saved again, it is NumPy's own class


def _scalar(dtype: _Dtype, data: bytes) -> np.generic:
    return np.frombuffer(data, dtype.numpy)[0]


class _CfgNode:
    """The settings (yacs) in what the released Focal code saves while it trains: read as plain dicts."""

    def __new__(cls):
        return OrderedDict()


_ALLOWED: list[Callable | tuple[Callable, str]] = [
    (_CfgNode, 'yacs.config.CfgNode'),
    (_HistoryBuffer, 'mmengine.logging.history_buffer.HistoryBuffer'),
    (_statistics_method, 'builtins.getattr'),
    (_Array, 'numpy.ndarray'),
    (_Dtype, 'numpy.dtype'),
    (bytes, 'builtins.bytes'),  # an empty array's data
]
for _module in ('numpy.core.multiarray', 'numpy._core.multiarray'):  # NumPy 1 and 2
    _ALLOWED += [(_Array, f'{_module}._reconstruct'), (_scalar, f'{_module}.scalar')]
