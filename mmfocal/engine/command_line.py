"""What the subcommands of `mmfocal` share: reading a config and applying their arguments."""

import argparse
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.utils import import_modules_from_strings

from mmfocal.engine.config_paths import find_config, register_config_prefix
from mmfocal.errors import ConfigError


def load_config(args: argparse.Namespace) -> Config:
    """Reads a config and applies the arguments of `mmfocal train` and `mmfocal test`.

    Args:
        args: With `config` and what `mmfocal.cli.arguments` adds.

    Returns:
        The complete config, for `RUNNERS.build`.

    Raises:
        MissingFileError, ConfigError: As `read_config`.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = read_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or f'work_dirs/{Path(cfg.filename).stem}'
    cfg.setdefault('runner_type', 'FocalRunner')
    if find_spec('tensorboard') and cfg.get('visualizer'):
        backends = cfg.visualizer.setdefault('vis_backends', [])
        if all(backend['type'] != 'TensorboardVisBackend' for backend in backends):
            backends.append(dict(type='TensorboardVisBackend'))
    return cfg


def read_config(path: str | Path, options: dict | None = None) -> Config:
    """Reads a config.

    Args:
        path: A path or a name, as for `find_config`.
        options: Settings to override, by their dotted names.

    Raises:
        MissingFileError: If there is no such config.
        ConfigError: If it needs a package that is not installed, or an environment variable that is empty.
    """
    register_config_prefix()
    path = find_config(path)
    try:
        cfg = Config.fromfile(path, import_custom_modules=False)
    except KeyError as error:  # MMEngine's, for {{$NAME}} and for a NAME that is set to nothing
        if 'os.environ' not in str(error):
            raise
        name = str(error).split('`')[1]
        raise ConfigError(
            f'{path}: the environment variable {name} is empty; set it, or unset it for the default'
        ) from error
    cfg.merge_from_dict(options or {})
    check_packages(cfg, str(path))
    import_modules_from_strings(**(cfg.get('custom_imports') or dict(imports=None)))
    return cfg


def check_packages(cfg: Config, where: str) -> None:
    """Raises a ConfigError if a config's types come from a package that is not installed; `where` names the config."""
    missing = [package for name, package in _packages(cfg).items() if not find_spec(name)]
    if missing:
        noun = 'package' if len(missing) == 1 else 'packages'
        raise ConfigError(f'{where}: {noun} {", ".join(missing)} not installed; pip install {" ".join(missing)}')


def _packages(cfg: Config) -> dict[str, str]:
    """Returns the packages that a config's types come from: pip's name by the name to import."""
    scope, types = cfg.get('default_scope', 'mmengine'), _types(cfg.to_dict())
    scopes = {kind.split('.')[0] for kind in types if '.' in kind}
    names = [scope, *sorted(scopes & {'mmdet', 'mmseg', 'mmpretrain'})]
    if 'mmseg' in names:
        names += ['ftfy', 'regex']  # which it imports, but does not declare
        if {'Mask2FormerHead', 'MaskFormerHead'} & {kind.removeprefix('mmseg.') for kind in types}:
            names.append('mmdet')  # whose heads these are; undeclared too
    return {name: 'mmsegmentation' if name == 'mmseg' else name for name in names}


def _types(node: Any) -> set[str]:
    """Returns the values of all keys `type` in a config."""
    if isinstance(node, dict):
        kinds = {node['type']} if isinstance(node.get('type'), str) else set()
        return kinds.union(*map(_types, node.values()))
    return set().union(*map(_types, node)) if isinstance(node, (list, tuple)) else set()


def enable_amp(cfg: Config) -> None:
    """Sets mixed precision: bfloat16 where the GPU has it, else float16 with loss scaling.

    Raises:
        ConfigError: If there is no GPU.
    """
    if not torch.cuda.is_available():
        raise ConfigError('--amp: PyTorch sees no GPU; leave it out to train in float32')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    if torch.cuda.is_bf16_supported(including_emulation=False):
        cfg.optim_wrapper.update(dtype='bfloat16', loss_scale=dict(enabled=False))
    else:
        cfg.optim_wrapper.update(dtype='float16', loss_scale='dynamic')
