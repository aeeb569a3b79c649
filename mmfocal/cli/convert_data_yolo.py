"""Converts a YOLO data set, boxes or polygons, to COCO.

SRC is data.yaml, or a folder with it, with darknet's .data file, or with classes.txt. Labels are read from labels/ in
place of images/ in an image's path, or beside the image. An image without a label file, or with an empty one, is
background. If every polygon has four points they are rotated rectangles.
"""

import argparse

from mmfocal.cli.convert_data import add_common, add_rotated, run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    add_common(parser, 'data.yaml, or the folder of the data set')
    add_rotated(parser)


def main(args: argparse.Namespace) -> None:
    """Converts the data set.

    Args:
        args: Of `add_arguments`.
    """
    run('yolo', args)
