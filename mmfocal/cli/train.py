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
    parser.add_argument(
        '--batch-size',
        type=batch_size,
        metavar='N',
        help="images per process, or 'auto': the most that fit the GPU's memory, with the learning rate scaled to them",
    )
    parser.add_argument(
        '--ema',
        nargs='?',
        type=float,
        const=2e-4,
        metavar='MOMENTUM',
        help='validate and save moving averages of weights; MOMENTUM is the share of the newest (default: 0.0002)',
    )
    parser.add_argument(
        '--early-stop',
        type=int,
        metavar='N',
        help='stop if the metric of the best checkpoint has not improved in N validations',
    )
    parser.add_argument('--wandb', action='store_true', help='log to Weights & Biases as well')
    parser.add_argument('--mlflow', action='store_true', help='log to MLflow as well')
    add_evaluation(parser)
    add_runner(parser)


def batch_size(text: str) -> int | str:
    """Returns the value of --batch-size."""
    if text == 'auto':
        return text
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a positive number nor 'auto'")
    return int(text)


def main(args: argparse.Namespace) -> None:
    """Trains.

    Args:
        args: Of `add_arguments`.

    Raises:
        UserError: If the config, its data or a checkpoint cannot be used.
    """
    from mmengine.registry import RUNNERS

    import mmfocal.registration  # noqa: F401  registers what configs name
    from mmfocal.engine import command_line, load_config

    cfg = load_config(args)
    add_guards(cfg)
    set_evaluation(cfg, args)
    if args.amp:
        command_line.enable_amp(cfg)
    if args.auto_scale_lr:
        command_line.enable_auto_scale_lr(cfg, f'{args.config}: --auto-scale-lr')
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    if args.batch_size is not None:
        command_line.set_batch_size(cfg, args.batch_size)
    if args.ema is not None:
        command_line.enable_ema(cfg, args.ema)
    if args.early_stop is not None:
        command_line.enable_early_stopping(cfg, args.early_stop)
    for package in ('wandb', 'mlflow'):
        if getattr(args, package):
            command_line.enable_tracker(cfg, package)
    RUNNERS.build(cfg).train()
