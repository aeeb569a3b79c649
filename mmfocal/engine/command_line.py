"""What tools/train.py and tools/test.py share."""
import argparse
import os
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Optional, Union

import torch
from mmengine.config import Config, DictAction

from mmfocal.errors import ConfigError, MissingFileError, UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that training and testing have in common, as in MMDetection."""
    parser.add_argument('--work-dir', help='where logs and checkpoints go; default: work_dirs/ and the config\'s name')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={}, metavar='KEY=VALUE',
                        help='override settings of the config, e.g. train_dataloader.batch_size=4 or key="[a,b]"')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def load_config(args: argparse.Namespace) -> Config:
    """Reads a config and applies the arguments of `add_arguments`.

    Args:
        args (argparse.Namespace): With `config`, the config's path, as well.

    Returns:
        Config: Complete, for `RUNNERS.build`.

    Raises:
        MissingFileError, ConfigError: As `read_config`.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = read_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or f'work_dirs/{Path(args.config).stem}'
    cfg.setdefault('runner_type', 'FocalRunner')
    if find_spec('tensorboard') and cfg.get('visualizer'):
        backends = cfg.visualizer.setdefault('vis_backends', [])
        if all(backend['type'] != 'TensorboardVisBackend' for backend in backends):
            backends.append(dict(type='TensorboardVisBackend'))
    return cfg


def read_config(path: Union[str, Path], options: Optional[dict] = None) -> Config:
    """Reads a config.

    Args:
        path (str | Path): The config's.
        options (dict, optional): Settings to override, by their dotted names.

    Returns:
        Config: The config.

    Raises:
        MissingFileError: If it is absent.
        ConfigError: If it needs a package that is not installed, or an environment variable that is empty.
    """
    if not Path(path).is_file():
        raise MissingFileError(f'{path}: no such config; configs/ holds the ones that come with mmfocal')
    try:
        cfg = Config.fromfile(path)
    except KeyError as error:  # MMEngine's, for {{$NAME}} and for a NAME that is set to nothing
        if 'os.environ' not in str(error):
            raise
        name = str(error).split('`')[1]
        raise ConfigError(f'{path} reads the environment variable {name}, which is empty: set it, or unset it for the default')
    cfg.merge_from_dict(options or {})
    scope = cfg.get('default_scope', 'mmengine')
    if not find_spec(scope):
        package = 'mmsegmentation' if scope == 'mmseg' else scope
        raise ConfigError(f'{path} needs the package {package}, which is not installed: pip install {package}')
    return cfg


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
    """Ends the program with the sentence of a user's error, without a traceback."""
    try:
        yield
    except UserError as error:
        sentence = error
    except TypeError as error:
        if 'unexpected keyword argument' not in str(error):
            raise
        sentence = f'{error}; check the spelling of that config key'
    else:
        return
    print(f'error: {sentence}', file=sys.stderr)
    raise SystemExit(1)
