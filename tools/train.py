"""Trains a detector or segmentor: tools/train.py CONFIG."""

import argparse

from mmengine.registry import RUNNERS

import mmfocal.registration  # noqa: F401
from mmfocal.engine import load_config, one_sentence_errors
from mmfocal.engine.command_line import add_arguments, enable_amp
from mmfocal.errors import ConfigError


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from this checkpoint, or from the latest in the work directory',
    )
    parser.add_argument('--amp', action='store_true', help='train with automatic mixed precision')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate to the actual total batch size'
    )
    add_arguments(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    cfg = load_config(args)
    if args.amp:
        enable_amp(cfg)
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise ConfigError(f'--auto-scale-lr needs auto_scale_lr.base_batch_size, which {args.config} does not have')
        cfg.auto_scale_lr.enable = True
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    RUNNERS.build(cfg).train()


if __name__ == '__main__':
    with one_sentence_errors():
        main()
