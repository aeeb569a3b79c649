"""Converts labelme's JSON files to COCO.

Polygons, rectangles, circles and masks are converted, and shapes of one label and group_id joined to one object; lines
and points have no area and are left out. An image that is missing is written from the imageData in its JSON file.
"""

import argparse

from mmfocal.cli.convert_data import add_common, add_rotated, run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    add_common(parser, 'folder with JSON files, also in the folders train, val and test')
    add_rotated(parser)


def main(args: argparse.Namespace) -> None:
    """Converts the data set.

    Args:
        args: Of `add_arguments`.
    """
    run('labelme', args)
