"""Converts a Pascal VOC data set to COCO.

SRC holds Annotations/, JPEGImages/ and ImageSets/Main/train.txt, val.txt, test.txt (or trainval.txt), or XML files
beside their images, also in the folders train, val and test. Difficult objects become iscrowd=1: they count neither
for nor against a detection. Label maps of SegmentationClass/ are not converted.
"""

import argparse

from mmfocal.cli.convert_data import add_common, add_rotated, run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    add_common(parser, 'folder with Annotations/, or a VOCdevkit with one year')
    parser.add_argument(
        '--first-pixel',
        type=int,
        choices=[0, 1],
        help='first pixel of an image: 1 as VOC defines, or 0; default: 1, unless a box starts at 0',
    )
    add_rotated(parser)


def main(args: argparse.Namespace) -> None:
    """Converts the data set.

    Args:
        args: Of `add_arguments`.
    """
    run('voc', args)
