"""Converts an export of CVAT, "CVAT for images 1.1" or "CVAT for video 1.1", to COCO.

Boxes, polygons, ellipses and masks are converted, and shapes of one label and group joined to one object; other shapes
are left out. Subsets become splits. The frames of a video lie as frame_000000.png, … in images/.
"""

import argparse

from mmfocal.cli.convert_data import add_common, add_rotated, run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    add_common(parser, 'the unpacked export, or its XML file')
    add_rotated(parser)


def main(args: argparse.Namespace) -> None:
    """Converts the data set.

    Args:
        args: Of `add_arguments`.
    """
    run('cvat', args)
