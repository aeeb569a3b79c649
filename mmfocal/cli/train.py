"""Trains a detector or segmentor."""

import argparse

from mmfocal.cli.arguments import add_config, add_evaluation, add_runner
from mmfocal.cli.evaluation import set_evaluation
from mmfocal.cli.guards import add_guards


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments, which are those of MMDetection's tools/train.py."""
    add_config(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='resume from this checkpoint, or from the latest valid one in the work directory',
    )
    parser.add_argument('--amp', action='store_true', help='train with automatic mixed precision')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate to the actual total batch size'
    )
    add_evaluation(parser)
    add_runner(parser)


def main(args: argparse.Namespace) -> None:
    """Trains.

    Args:
        args: Of `add_arguments`.

    Raises:
        UserError: If the config, its data or a checkpoint cannot be used.
    """
    from mmengine.registry import RUNNERS

    import mmfocal.registration  # noqa: F401  registers what configs name
    from mmfocal.engine import load_config
    from mmfocal.engine.command_line import enable_amp
    from mmfocal.errors import ConfigError

    cfg = load_config(args)
    add_guards(cfg)
    set_evaluation(cfg, args)
    if args.amp:
        enable_amp(cfg)
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise ConfigError(
                f'{args.config}: --auto-scale-lr needs auto_scale_lr.base_batch_size; set it or leave the flag out'
            )
        cfg.auto_scale_lr.enable = True
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    RUNNERS.build(cfg).train()
