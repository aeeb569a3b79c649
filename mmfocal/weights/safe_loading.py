"""Checkpoint loading that never runs code: the one place that says what a checkpoint may hold.

A pickle names functions, and reading it calls them. torch's `weights_only` reader calls only those that build
tensors, but MMEngine's checkpoints hold HistoryBuffers, NumPy arrays and NumPy numbers too. Here are
stand-ins, and loaders for all schemes of MMEngine's `CheckpointLoader`: Runners and `init_cfg` load this way.
"""

import hashlib
import logging
import os
import pickle
import re
import sys
from collections import OrderedDict
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import Request, urlopen

import numpy as np
import torch
from mmengine.dist import all_gather_object, is_distributed
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from mmfocal.errors import CheckpointError, MissingFileError


def load_checkpoint(path_or_url, map_location='cpu'):
    """Loads a checkpoint without running any code that it may hold.

    Args:
        path_or_url (str or Path): A file, a URL, or another scheme of MMEngine's `CheckpointLoader`.
        map_location (str, torch.device, dict or callable): As for `torch.load`. Default: 'cpu'.

    Returns:
        dict: What was saved, without MMCV 1's `meta['config']`, a text that MMEngine would run on resuming.

    Raises:
        MissingFileError: There is no such file.
        CheckpointError: The file is damaged, is no checkpoint, asks for code, or cannot be downloaded.
    """
    name = str(path_or_url)
    return _loader_of(name)(name, map_location)


def register_safe_loaders() -> None:
    """Replaces the loaders of all schemes of MMEngine's `CheckpointLoader`, for this process.

    After it, `Runner`, `init_cfg` and `mmengine.runner.load_checkpoint` load without running code too. Calling it again
    does nothing more.
    """
    for prefixes, loader in _SCHEMES:
        CheckpointLoader.register_scheme(prefixes=prefixes, loader=loader, force=True)


def load_from_local(path, map_location=None):
    """Loads a file; without `map_location` to the CPU, so that what was saved on a GPU loads anywhere."""
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        raise MissingFileError(f'{path}: there is no such checkpoint file; check the path')
    try:
        with torch.serialization.safe_globals(_ALLOWED):  # for this call, not for the whole process
            checkpoint = torch.load(path, map_location=map_location or 'cpu', weights_only=True)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except PermissionError as error:
        raise CheckpointError(f'{path} cannot be read: {error.strerror}; change its permissions') from error
    except Exception as error:  # damaged bytes, read as a pickle's instructions, end in any kind of error
        refused = re.search(r'GLOBAL (\S+)|(?:build|create) .*got (<.+>)|function (<.+>)', str(error))
        if refused:
            name = next(filter(None, refused.groups()))
            raise CheckpointError(
                f'{path} asks for {name}, which could run code (nothing was run); '
                'use a file that holds only tensors, numbers and text'
            ) from error
        reason = type(error).__name__
        if isinstance(error, RuntimeError):  # torch's own words: the first sentence, without its advice
            reason = re.split(r'\n|\. ', str(error))[0]
        raise CheckpointError(
            f'{path} is truncated or not a checkpoint ({reason}); '
            'use another file, or delete this one and download it again'
        ) from error
    # only operators: the file may hide an OrderedDict's methods under attributes of the same names
    if isinstance(checkpoint, dict) and 'meta' in checkpoint:
        meta = checkpoint['meta']
        if isinstance(meta, dict) and 'config' in meta:
            del meta['config']
            print_log(
                f"{path}: left out meta['config'], which MMEngine would run as Python on resuming",
                logger='current',
                level=logging.WARNING,
            )
    return checkpoint


def load_from_http(url, map_location=None):
    """Downloads a file into torch.hub's cache, once on each machine, and loads it from there."""
    name = os.path.basename(urlparse(url).path)
    if name in ('', '.', '..'):
        raise CheckpointError(f'{url} names no file; give the URL of a checkpoint file')
    path = Path(torch.hub.get_dir(), 'checkpoints', name)
    failure = None
    if not is_distributed() or os.environ.get('LOCAL_RANK', '0') == '0':
        try:
            _download(url, path)
        except Exception as error:  # of any kind: the other ranks wait and have to hear of it
            failure = f'{url} could not be downloaded ({error}); download it by hand and give its path'
    for failure in filter(None, all_gather_object(failure)):
        raise CheckpointError(failure)
    return load_from_local(str(path), map_location)


def load_from_torchvision(name, map_location=None):
    """Loads from the URL that torchvision has for a name."""
    try:
        urls = mmengine_checkpoint.get_torchvision_models()
    except ImportError as error:
        raise CheckpointError(
            f"{name} needs the package torchvision; install it, or give the weights' https URL"
        ) from error
    return load_from_http(_look_up(name, urls), map_location)


def load_from_openmmlab(name, map_location=None):
    """Loads from the URL, or the file in MMEngine's home, that OpenMMLab's list has for a name."""
    scheme, model = name.split('://', 1)
    model = mmengine_checkpoint.get_deprecated_model_names().get(model, model)
    source = _look_up(f'{scheme}://{model}', mmengine_checkpoint.get_external_models())
    if source.startswith(('http://', 'https://')):
        return load_from_http(source, map_location)
    return load_from_local(os.path.join(mmengine_checkpoint._get_mmengine_home(), source), map_location)


def load_from_mmcls(name, map_location=None):
    """Loads a backbone from the URL that MMClassification's list has for a name."""
    checkpoint = load_from_http(_look_up(name, mmengine_checkpoint.get_mmcls_models()), map_location)
    return mmengine_checkpoint._process_mmcls_checkpoint(checkpoint)


def load_from_storage(path, map_location=None):
    """Refuses OpenMMLab's internal storage services."""
    raise CheckpointError(f'{path}: this storage is not supported; copy the file to a disk and give its path')


# Prefixes are regular expressions, as MMEngine matches them; the first that matches counts, the empty one always does.
_SCHEMES = (
    (('http://', 'https://'), load_from_http),
    (('torchvision://', 'modelzoo://'), load_from_torchvision),
    (('open-mmlab://', 'openmmlab://'), load_from_openmmlab),
    (('mmcls://',), load_from_mmcls),
    (('pavi://', r'(\S+\:)?s3://', r'(\S+\:)?petrel://'), load_from_storage),
    (('',), load_from_local),
)


def _loader_of(name):
    return next(loader for prefixes, loader in _SCHEMES if any(re.match(prefix, name) for prefix in prefixes))


def _look_up(name, urls):
    model = name.split('://', 1)[1]
    if model not in urls:
        raise CheckpointError(f'{name}: there is no such model; give the path or https URL of the weights')
    return urls[model]


def _download(url, path):
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'{path.name}.{os.getpid()}.part')
    # torch.hub's convention: eight or more digits of the SHA-256 before the extension
    digits = torch.hub.HASH_REGEX.search(path.name)
    digits = digits[1] if digits and len(digits[1]) >= 8 else ''
    # torch.hub's own download would wait for ever, and keep what a broken connection left
    request = Request(url, headers={'User-Agent': 'torch.hub'})  # some hosts answer no Python-urllib
    try:
        with urlopen(request, timeout=60) as answer, open(part, 'wb') as file:  # seconds of silence
            promised = int(answer.headers.get('Content-Length', -1))
            sha256 = hashlib.sha256()
            with torch.hub.tqdm(
                total=max(promised, 0) or None, unit='B', unit_scale=True, disable=not sys.stderr.isatty()
            ) as bar:
                while chunk := answer.read(2**20):
                    file.write(chunk)
                    sha256.update(chunk)
                    bar.update(len(chunk))
            size = file.tell()
        if promised >= 0 and size != promised:
            raise ConnectionError(f'it ended after {size} of {promised} bytes')
        if not sha256.hexdigest().startswith(digits):
            raise ValueError(f'its SHA-256 is {sha256.hexdigest()}, and the hash in its name {digits}')
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


# The stand-ins. The classes themselves would do harm: numpy.ndarray takes the file's bytes for addresses of
# objects (dtype 'O'), and HistoryBuffer adds the file's functions to the statistics of the whole process.


class _HistoryBuffer(HistoryBuffer):
    def __setstate__(self, state):
        self.__init__(state['_log_history'], state['_count_history'], state['max_length'])
        self.__class__ = HistoryBuffer


def _statistics_method(owner, name):
    """Stands in for `getattr`, by which a HistoryBuffer's pickle lists its statistics."""
    if owner is not _HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise pickle.UnpicklingError(f'GLOBAL builtins.getattr({name!r})')
    return getattr(HistoryBuffer, name)


class _Dtype:
    def __init__(self, code, align=False, copy=False):
        if not re.fullmatch('[biuf][0-9]{1,2}', code):
            raise pickle.UnpicklingError(f'GLOBAL numpy.dtype({code!r})')
        self.numpy = np.dtype(code)

    def __setstate__(self, state):
        self.numpy = self.numpy.newbyteorder(state[1])


class _Array(np.ndarray):
    def __new__(cls, *_):
        return super().__new__(cls, (0,))

    def __setstate__(self, state):
        version, shape, dtype, is_fortran, data = state
        super().__setstate__((version, shape, dtype.numpy, is_fortran, data))

    def __reduce_ex__(self, protocol):
        return np.asarray(self).__reduce_ex__(protocol)  # saved again, it is NumPy's own class


def _scalar(dtype, data):
    return np.frombuffer(data, dtype.numpy)[0]


class _CfgNode:
    """The settings (yacs) in what the released Focal code saves while it trains: read as plain dicts."""

    def __new__(cls):
        return OrderedDict()


_ALLOWED = [
    (_CfgNode, 'yacs.config.CfgNode'),
    (_HistoryBuffer, 'mmengine.logging.history_buffer.HistoryBuffer'),
    (_statistics_method, 'builtins.getattr'),
    (_Array, 'numpy.ndarray'),
    (_Dtype, 'numpy.dtype'),
    (bytes, 'builtins.bytes'),
]  # an empty array's data
for _module in ('numpy.core.multiarray', 'numpy._core.multiarray'):  # NumPy 1 and 2
    _ALLOWED += [(_Array, f'{_module}._reconstruct'), (_scalar, f'{_module}.scalar')]
