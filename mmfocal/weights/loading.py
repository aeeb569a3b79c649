"""Loading of checkpoints in all formats and from all of OpenMMLab's schemes, without running code that they hold."""

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from mmfocal.errors import CheckpointError, MissingFileError
from mmfocal.weights.download import download, no_weights_reason
from mmfocal.weights.paddle_file import (
    PaddleFileError,
    RefusedGlobalError,
    is_plain_pickle_of_dict,
    read_paddle_file,
)
from mmfocal.weights.safetensors_file import is_safetensors, read_safetensors
from mmfocal.weights.torch_file import code_refused, damaged, read_torch_file


def load_checkpoint(path_or_url: str | Path, map_location: Any = 'cpu') -> dict[str, Any]:
    """Loads a checkpoint without running any code that it may hold.

    The content tells the format: torch's `.pth`, safetensors, or Paddle's `.pdparams`.

    Args:
        path_or_url: A file, a URL, or another scheme of MMEngine's `CheckpointLoader`.
        map_location: As for `torch.load`.

    Returns:
        What was saved, without MMCV 1's `meta['config']`, a text that MMEngine would run on resuming. Of a safetensors
        file, `state_dict` and `meta`.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If the file is damaged, is no checkpoint, asks for code, or cannot be downloaded.
    """
    name = str(path_or_url)
    return _find_loader(name)(name, map_location)


def register_safe_loaders() -> None:
    """Replaces the loaders of all schemes of MMEngine's `CheckpointLoader`, for this process.

    After it, `Runner`, `init_cfg` and `mmengine.runner.load_checkpoint` load as `load_checkpoint` does. A second call
    changes nothing.
    """
    for prefixes, loader in _SCHEMES:
        CheckpointLoader.register_scheme(prefixes=prefixes, loader=loader, force=True)


def load_from_local(path: str, map_location: Any = None) -> Any:
    """Loads a file; without `map_location` to the CPU, so that what was saved on a GPU loads anywhere."""
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        raise MissingFileError(f'{path}: there is no such checkpoint file; check the path')
    try:
        with open(path, 'rb') as file:
            head = file.read(512)
    except PermissionError as error:
        raise CheckpointError(f'{path} cannot be read: {error.strerror}; change its permissions') from error
    reason = no_weights_reason(head)
    if reason:
        raise CheckpointError(f'{path}: this is {reason}')
    if is_safetensors(head, os.path.getsize(path)) or path.endswith('.safetensors'):
        return _moved(read_safetensors(path), map_location)
    if is_plain_pickle_of_dict(head) or path.endswith('.pdparams'):
        return _moved(_read_paddle(path), map_location)
    checkpoint = read_torch_file(path, map_location or 'cpu')
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


def load_from_http(url: str, map_location: Any = None) -> Any:
    """Downloads a file into torch.hub's cache, once per machine, and loads it from there."""
    return load_from_local(download(url), map_location)


def load_from_torchvision(name: str, map_location: Any = None) -> Any:
    """Loads from the URL that torchvision has for a name."""
    try:
        urls = mmengine_checkpoint.get_torchvision_models()
    except ImportError as error:
        raise CheckpointError(
            f"{name} needs the package torchvision; install it, or give the weights' https URL"
        ) from error
    return load_from_http(_look_up(name, urls), map_location)


def load_from_openmmlab(name: str, map_location: Any = None) -> Any:
    """Loads from the URL, or the file in MMEngine's home, that OpenMMLab's list has for a name."""
    scheme, model = name.split('://', 1)
    model = mmengine_checkpoint.get_deprecated_model_names().get(model, model)
    source = _look_up(f'{scheme}://{model}', mmengine_checkpoint.get_external_models())
    if source.startswith(('http://', 'https://')):
        return load_from_http(source, map_location)
    return load_from_local(os.path.join(mmengine_checkpoint._get_mmengine_home(), source), map_location)


def load_from_mmcls(name: str, map_location: Any = None) -> Any:
    """Loads a backbone from the URL that MMClassification's list has for a name."""
    checkpoint = load_from_http(_look_up(name, mmengine_checkpoint.get_mmcls_models()), map_location)
    return mmengine_checkpoint._process_mmcls_checkpoint(checkpoint)


def load_from_package(name: str, map_location: Any = None) -> Any:
    """Loads weights that the package holds: `mmfocal://focal_nano_shapes`."""
    weights = {path.stem: path for path in sorted(Path(__file__).parent.glob('*.safetensors'))}
    model = name.split('://', 1)[1]
    if model not in weights:
        raise CheckpointError(f'{name}: the package has no such weights; choose from: {", ".join(weights)}')
    return load_from_local(str(weights[model]), map_location)


def load_from_storage(path: str, map_location: Any = None) -> Any:
    """Refuses OpenMMLab's internal storage services."""
    raise CheckpointError(f'{path}: this storage is not supported; copy the file to a disk and give its path')


# Prefixes are regular expressions, as for MMEngine. The first that matches counts; the empty one always does.
_SCHEMES: tuple[tuple[tuple[str, ...], Callable[[str, Any], Any]], ...] = (
    (('http://', 'https://'), load_from_http),
    (('torchvision://', 'modelzoo://'), load_from_torchvision),
    (('open-mmlab://', 'openmmlab://'), load_from_openmmlab),
    (('mmcls://',), load_from_mmcls),
    (('mmfocal://',), load_from_package),
    (('pavi://', r'(\S+\:)?s3://', r'(\S+\:)?petrel://'), load_from_storage),
    (('',), load_from_local),
)


def _find_loader(name: str) -> Callable[[str, Any], Any]:
    return next(loader for prefixes, loader in _SCHEMES if any(re.match(prefix, name) for prefix in prefixes))


def _look_up(name: str, urls: dict[str, str]) -> str:
    model = name.split('://', 1)[1]
    if model not in urls:
        raise CheckpointError(f'{name}: there is no such model; give the path or https URL of the weights')
    return urls[model]


def _read_paddle(path: str) -> dict[str, Any]:
    try:
        return read_paddle_file(path)
    except RefusedGlobalError as error:
        raise code_refused(path, str(error)) from error
    except PaddleFileError as error:
        raise damaged(path, str(error)) from error


def _moved(checkpoint: Any, map_location: Any) -> Any:
    """Returns a checkpoint with its tensors on a device; other forms of `map_location` leave them on the CPU."""
    if isinstance(checkpoint, torch.Tensor):
        return checkpoint.to(map_location) if isinstance(map_location, (str, torch.device)) else checkpoint
    if isinstance(checkpoint, dict):
        return {key: _moved(value, map_location) for key, value in checkpoint.items()}
    return checkpoint
