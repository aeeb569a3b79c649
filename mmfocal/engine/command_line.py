"""What the subcommands of `mmfocal` share: reading a config, and errors of one line."""

import argparse
import errno
import logging
import os
import re
import shutil
import sys
import traceback
from contextlib import contextmanager
from importlib.util import find_spec
from io import TextIOWrapper
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.utils import import_modules_from_strings

from mmfocal.engine.config_paths import find_config, register_config_prefix
from mmfocal.errors import ConfigError, UserError


def load_config(args: argparse.Namespace) -> Config:
    """Reads a config and applies the arguments of `mmfocal train` and `mmfocal test`.

    Args:
        args (argparse.Namespace): With `config` and what `mmfocal.cli.arguments` adds.

    Returns:
        Config: Complete, for `RUNNERS.build`.

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
        path (str | Path): As `find_config` takes it.
        options (dict, optional): Settings to override, by their dotted names.

    Returns:
        Config: The config.

    Raises:
        MissingFileError: If it is absent.
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
            f'{path} reads the environment variable {name}, which is empty: set it, or unset it for the default'
        )
    cfg.merge_from_dict(options or {})
    missing = [package for name, package in _packages(cfg).items() if not find_spec(name)]
    if missing:
        what = 'the package {}, which is' if len(missing) == 1 else 'the packages {}, which are'
        what = what.format(', '.join(missing))
        raise ConfigError(f'{path} needs {what} not installed: pip install {" ".join(missing)}')
    import_modules_from_strings(**(cfg.get('custom_imports') or dict(imports=None)))
    return cfg


def _packages(cfg: Config) -> dict[str, str]:
    """The packages that a config's types come from: the name that pip knows, by the name to import."""
    scope, types = cfg.get('default_scope', 'mmengine'), _types(cfg.to_dict())
    scopes = {kind.split('.')[0] for kind in types if '.' in kind}
    names = [scope, *sorted(scopes & {'mmdet', 'mmseg', 'mmpretrain'})]
    if 'mmseg' in names:
        names += ['ftfy', 'regex']  # which it imports and does not ask pip for
        if {'Mask2FormerHead', 'MaskFormerHead'} & {kind.removeprefix('mmseg.') for kind in types}:
            names.append('mmdet')  # whose heads these are; MMSegmentation does not say so
    return {name: 'mmsegmentation' if name == 'mmseg' else name for name in names}


def _types(node) -> set[str]:
    """The values of all keys `type` in a config."""
    if isinstance(node, dict):
        kinds = {node['type']} if isinstance(node.get('type'), str) else set()
        return kinds.union(*map(_types, node.values()))
    return set().union(*map(_types, node)) if isinstance(node, (list, tuple)) else set()


def enable_amp(cfg: Config) -> None:
    """Trains with mixed precision: bfloat16 where the GPU has it, else float16 with loss scaling.

    Raises:
        ConfigError: If there is no GPU.
    """
    if not torch.cuda.is_available():
        raise ConfigError('--amp needs a GPU, and PyTorch sees none: leave it out to train in float32')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    if torch.cuda.is_bf16_supported(including_emulation=False):
        cfg.optim_wrapper.update(dtype='bfloat16', loss_scale=dict(enabled=False))
    else:
        cfg.optim_wrapper.update(dtype='float16', loss_scale='dynamic')


@contextmanager
def one_sentence_errors():
    """Ends the program with the sentence of a user's error, or of what the machine lacks, without a traceback."""
    logging.raiseExceptions = False  # or a full disk would bring a traceback for each line that the log cannot take
    if isinstance(sys.stdout, TextIOWrapper):  # a terminal may not know the letters of a path or of a class
        sys.stdout.reconfigure(errors='backslashreplace')
    try:
        yield
    except BrokenPipeError:  # who read the output, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        print(f'error: {sentence}', file=sys.stderr)
        raise SystemExit(1)


def _sentence(error: Exception) -> str | None:
    """What is wrong and what to do, or None if only a traceback tells."""
    text = str(error)
    in_worker = '\nOriginal Traceback' in text  # PyTorch's way to pass on an error of a data loader's worker
    if in_worker:
        text = text.splitlines()[-1].split(': ', 1)[-1]
    if isinstance(error, UserError):
        return text
    if isinstance(error, TypeError) and 'unexpected keyword argument' in text:
        return f'{text}; check the spelling of that config key'

    story = f'{error.__cause__} {error.__context__} {text}'
    frames = traceback.extract_tb(error.__traceback__)
    is_semaphore = isinstance(error, OSError) and frames[-1].filename.endswith('multiprocessing/synchronize.py')
    if 'shared memory' in story or is_semaphore:
        size = shutil.disk_usage('/dev/shm').total if os.path.isdir('/dev/shm') else 0
        return (
            f'/dev/shm ({size / 2**20:.0f} MiB), by which the workers of data loaders hand over what they read, is full or cannot '
            f'be written: enlarge it (docker run --shm-size=8g; mount -o remount,size=8g /dev/shm), or have {_FEWER}'
        )
    is_memory = isinstance(error, MemoryError) or "can't allocate memory" in text
    if 'is killed by signal: Killed' in story or in_worker and is_memory:
        return f'a worker of a data loader was killed, or found no memory, as there is too little of it: have {_FEWER}'
    if isinstance(error, UnicodeError) and sys.getfilesystemencoding() != 'utf-8':
        return f'{text}; Python takes files and paths for {sys.getfilesystemencoding()}: export PYTHONUTF8=1'
    if 'Too many open files' in story:
        return f'too many open files: raise their number (ulimit -n 65536), or have {_FEWER}'
    for numbers, what in _DISK:
        if isinstance(error, OSError) and re.search('|'.join(map(os.strerror, numbers)), text):
            return f'{text}; {what}, or choose another folder, as by --work-dir'
    return None


_DISK = (((errno.ENOSPC, errno.EDQUOT), 'make room there'), ((errno.EROFS, errno.EACCES, errno.EPERM), 'allow it'))
_FEWER = (
    'fewer: train_dataloader.num_workers=1 and val_dataloader.num_workers=1; 0, with persistent_workers=False, reads '
    'in the training process itself'
)
