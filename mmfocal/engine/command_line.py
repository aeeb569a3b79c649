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
from mmfocal.errors import ConfigError, MissingPackageError


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
    """Raises a MissingPackageError if the config `where` has types of a package that is not installed."""
    missing = [package for name, package in _packages(cfg).items() if not find_spec(name)]
    if missing:
        noun = 'package' if len(missing) == 1 else 'packages'
        wanted = missing
        if 'mmpretrain' in missing:
            wanted = [
                "'mmfocal[classification]'",
                *(one for one in missing if one not in ('mmpretrain', 'torchvision')),
            ]
        raise MissingPackageError(f'{where}: {noun} {", ".join(missing)} not installed; pip install {" ".join(wanted)}')


def _packages(cfg: Config) -> dict[str, str]:
    """Returns the packages that a config's types come from: pip's name by the name to import."""
    scope, types = cfg.get('default_scope', 'mmengine'), _types(cfg.to_dict())
    scopes = {kind.split('.')[0] for kind in types if '.' in kind}
    names = [scope, *sorted(scopes & {'mmdet', 'mmseg', 'mmpretrain'})]
    if 'mmseg' in names:
        names += ['ftfy', 'regex']  # which it imports, but does not declare
        if {'Mask2FormerHead', 'MaskFormerHead'} & {kind.removeprefix('mmseg.') for kind in types}:
            names.append('mmdet')  # whose heads these are; undeclared too
    if 'mmpretrain' in names:
        names.append('torchvision')  # likewise
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


def enable_ema(cfg: Config, momentum: float) -> None:
    """Adds MMEngine's `EMAHook`: averages of the weights are validated, saved and tested in place of the weights.

    Args:
        cfg: The config, which is changed.
        momentum: Share of the newest weights in the average; larger in the first iterations.

    Raises:
        ConfigError: If it is out of range, the config has the hook already, or the model is sharded.
    """
    if not 0 < momentum <= 0.5:
        raise ConfigError(f'--ema {momentum:g}: the share of the newest weights is above 0 and at most 0.5, as 0.0002')
    if cfg.get('fsdp_units'):
        raise ConfigError('--ema: does not work with fsdp_units, which shard the weights; leave one of them out')
    if any(hook.get('type') == 'EMAHook' for hook in cfg.get('custom_hooks') or ()):
        raise ConfigError('--ema: the config has an EMAHook in custom_hooks; leave one of them out')
    hook = dict(type='EMAHook', ema_type='MomentumAnnealingEMA', momentum=momentum, update_buffers=True)
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or ()), hook]


def enable_early_stopping(cfg: Config, validations: int) -> None:
    """Stops training after so many validations in which the metric of the best checkpoint has not improved.

    Args:
        cfg: The config, which is changed.
        validations: Their number.

    Raises:
        ConfigError: If it is not positive, or the config names no metric or does not validate.
    """
    if validations < 1:
        raise ConfigError(f'--early-stop {validations}: write a positive number of validations')
    checkpoint = cfg.get('default_hooks', {}).get('checkpoint') or {}
    metric = checkpoint.get('save_best')
    metric = metric[0] if isinstance(metric, (list, tuple)) and metric else metric
    if not metric or metric == 'auto' or not cfg.get('val_cfg'):
        raise ConfigError(
            '--early-stop: needs a validation and the metric to follow; set default_hooks.checkpoint.save_best to its '
            'name'
        )
    rule = checkpoint.get('rule')
    hook = dict(
        type='ResumableEarlyStoppingHook',
        monitor=metric,
        rule=rule[0] if isinstance(rule, (list, tuple)) else rule,
        patience=validations,
        min_delta=1e-4,  # of metrics up to 1 or 100; MMEngine's 0.1 is a tenth of COCO's AP
    )
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or ()), hook]


def enable_tracker(cfg: Config, package: str) -> None:
    """Adds a backend that logs to Weights & Biases or MLflow.

    Args:
        cfg: The config with its work directory and `resume`, which is changed.
        package: `wandb` or `mlflow`.

    Raises:
        ConfigError: If the package is not installed, or the config has no visualizer.
    """
    needed = dict(wandb=('wandb',), mlflow=('mlflow', 'sqlalchemy', 'alembic'))[package]
    specs = [find_spec(name) for name in needed]
    if any(spec is None or spec.origin is None for spec in specs):  # a folder wandb/, as its runs leave, is no package
        raise ConfigError(f"--{package}: not installed; pip install 'mmfocal[{package}]'")
    if not cfg.get('visualizer'):
        raise ConfigError(f"--{package}: the config has no visualizer to log with; add one, as mmfocal's configs have")
    backend = dict(
        type={'wandb': 'ResumableWandbBackend', 'mlflow': 'ResumableMLflowBackend'}[package],
        work_dir=cfg.work_dir,
        run_name=Path(cfg.work_dir).name,
        resume=bool(cfg.get('resume')),
    )
    cfg.visualizer.setdefault('vis_backends', []).append(backend)


def set_batch_size(cfg: Config, number: int | str) -> None:
    """Sets the batch size of each process.

    Args:
        cfg: The config, which is changed.
        number: The number, or 'auto' for the largest that fits, with the learning rate scaled to it.

    Raises:
        ConfigError: If the config does not say for which batch its learning rate is.
    """
    cfg.train_dataloader.batch_size = number
    if number == 'auto':
        enable_auto_scale_lr(cfg, '--batch-size auto')


def enable_auto_scale_lr(cfg: Config, flag: str) -> None:
    """Scales the learning rate to the batch size.

    Args:
        cfg: The config, which is changed.
        flag: What asks for it, for the error.

    Raises:
        ConfigError: If the config does not say for which batch its learning rate is.
    """
    if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
        raise ConfigError(f'{flag}: needs auto_scale_lr.base_batch_size in the config; set it or leave the flag out')
    cfg.auto_scale_lr.enable = True
