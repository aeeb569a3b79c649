"""Arguments that several subcommands have, under MMDetection's names."""

import argparse

from mmengine.config import DictAction


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds the config and `--cfg-options`."""
    parser.add_argument('config', help='config: a file, a name, or mmdet::PATH, mmpretrain::PATH or mmseg::PATH')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='override settings of the config, e.g. train_dataloader.batch_size=4 or key="[a,b]"',
    )


def add_runner(parser: argparse.ArgumentParser) -> None:
    """Adds where training or testing writes, and how its processes are launched."""
    parser.add_argument(
        '--work-dir', help='folder for logs and checkpoints; default: work_dirs/ and the name of the config'
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def add_evaluation(parser: argparse.ArgumentParser) -> None:
    """Adds how detections are evaluated."""
    parser.add_argument('--classwise', action='store_true', help='log the AP, PQ or accuracy of each class as well')
    parser.add_argument(
        '--eval-backend',
        choices=('pycocotools', 'faster'),
        help='what computes AP: faster is faster-coco-eval, with equal figures (default: pycocotools)',
    )
