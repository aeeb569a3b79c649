"""Checks of label maps and their folders, each error one sentence: what is wrong, where, what to do."""

import os
import os.path as osp

import numpy as np

from mmfocal.errors import DataError, MissingFileError

# The environment variables that configs read data_root from, and what it is without them.
ROOTS = dict(
    ADE20K_ROOT='data/ade/ADEChallengeData2016/',
    CITYSCAPES_ROOT='data/cityscapes/',
    COCO_ROOT='data/coco/',
    SHAPES_ROOT='data/shapes/',
)


def check_path(path, data_root, key):
    """Refuses a folder or file of a data set that is not there.

    Args:
        path (str): The local path, `data_root` included.
        data_root (str): The data set's folder, or an empty string.
        key (str): The config key that names the path, e.g. `data_prefix.img_path`.

    Raises:
        MissingFileError: If `path`, or the `data_root` that it lies in, does not exist.
    """
    if osp.exists(path):
        return
    if not data_root or not path.startswith(data_root):
        raise MissingFileError(f'{path}: not found; correct {key} or see README "Data"')
    name, remedy = 'data_root', 'correct data_root'
    for variable, default in ROOTS.items():
        if osp.normpath(data_root) == osp.normpath(os.environ.get(variable) or default):
            name, remedy = variable, f'set {variable}'
    if not osp.isdir(data_root):
        raise MissingFileError(f'{name}={data_root}: folder not found; {remedy} or see README "Data"')
    what = path[len(data_root) :].lstrip('/')
    raise MissingFileError(f'{name}={data_root}: {what} not found; {remedy} or {key}, or see README "Data"')


def check_shape(values, name, image_shape=None):
    """Checks that a label map has one channel and its image's size.

    Args:
        values (np.ndarray): The label map as it is in the file.
        name (str): What errors call the file.
        image_shape (tuple[int, int], optional): The image's height and width in pixels. Default: any.

    Raises:
        DataError: If `values` is not (h, w) with the image's h and w.
    """
    if values.ndim != 2:
        raise DataError(
            f'{name}: an array of {" x ".join(map(str, values.shape))} values, and a label map '
            "has one channel; write each pixel's class number in place of its colour"
        )
    if image_shape is not None and values.shape != tuple(image_shape):
        raise DataError(
            f'{name}: {values.shape[1]} x {values.shape[0]} px, and its image has '
            f'{image_shape[1]} x {image_shape[0]} px; resize one of them (label maps to the '
            'nearest value) or correct their names'
        )


def check_values(values, name, num_classes, first=0, ignore_index=255):
    """Checks that the values of a label map are classes.

    Args:
        values (np.ndarray): (h, w): the label map as it is in the file.
        name (str): What errors call the file.
        num_classes (int): Number of classes.
        first (int): The value of the first class: 1 where 0 is ignored as well. Default: 0.
        ignore_index (int): The value of pixels that are of no class. Default: 255.

    Raises:
        DataError: If a value is neither a class nor ignored.
    """
    wrong = (values >= first + num_classes) & (values != ignore_index)
    if values.dtype != np.uint8:
        wrong |= (values < 0) | (values % 1 != 0)
    if wrong.any():
        found = np.unique(values[wrong])
        more = f' and {len(found) - 5} more' if len(found) > 5 else ''
        numbers = ', '.join(f'{value}' for value in found[:5]) + more
        ignored = f'0 and {ignore_index} are' if first else f'{ignore_index} is'
        raise DataError(
            f'{name}: holds the label values {numbers}, and the {num_classes} classes have the '
            f'values {first} to {first + num_classes - 1} ({ignored} ignored); relabel its '
            "pixels, or correct metainfo.classes and the heads' num_classes"
        )
