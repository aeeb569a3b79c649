"""Issues of the values of one label map."""

import numpy as np

from mmfocal.datasets.validation.files import read_exif_orientation
from mmfocal.datasets.validation.issues import Issue
from mmfocal.text import join_some


def find_value_issues(
    values: np.ndarray,
    name: str,
    num_classes: int | None = None,
    first: int = 0,
    ignore_index: int = 255,
    image_shape: tuple[int, int] | None = None,
    image_path: str | None = None,
) -> list[Issue]:
    """Returns what is wrong with a label map's shape and values.

    Args:
        values: Label map as stored in the file.
        name: What messages call the file.
        num_classes: Number of classes. Default: any values are accepted.
        first: Value of the first class: 1 if 0 is ignored as well.
        ignore_index: Value of pixels of no class.
        image_shape: The image's height and width in px. Default: any.
        image_path: The image, to see whether it is rotated by EXIF.
    """
    if values.ndim != 2:
        shape = ' x '.join(map(str, values.shape))
        message = (
            f'{name}: an array of {shape} values, but a label map has one channel; '
            "write each pixel's class index instead of its colour"
        )
        return [Issue('label map of another shape', message, name)]
    issues = []
    if image_shape is not None and values.shape != tuple(image_shape):
        issues.append(Issue('label map of another shape', _shape_message(values, name, image_shape, image_path), name))
    wrong = np.zeros(values.shape, bool)
    if num_classes is not None:
        wrong |= (values >= first + num_classes) & (values != ignore_index)
        if values.dtype != np.uint8:
            wrong |= (values < 0) | (values % 1 != 0)
    if wrong.any():
        found = np.unique(values[wrong])
        ignored = f'0 and {ignore_index} are' if first else f'{ignore_index} is'
        message = (
            f'{name}: holds the label values {join_some(found)}, but the {num_classes} classes have the values '
            f'{first} to {first + num_classes - 1} ({ignored} ignored); {_remedy(name, found)}'
        )
        issues.append(Issue('label value beyond the classes', message, name))
    return issues


def _shape_message(values: np.ndarray, name: str, image_shape: tuple[int, int], image_path: str | None) -> str:
    sizes = f'{values.shape[1]} x {values.shape[0]} px, but its image has {image_shape[1]} x {image_shape[0]} px'
    if image_path and values.shape == tuple(image_shape)[::-1] and read_exif_orientation(image_path) > 4:
        return (
            f'{name}: {sizes} after rotation by its EXIF tag, which loading applies; '
            'rotate the label map too, or remove the tag from the image'
        )
    return f'{name}: {sizes}; resize one of them (label maps to the nearest value) or correct names'


def _remedy(name: str, found: np.ndarray) -> str:
    if name.lower().endswith(('.jpg', '.jpeg')):
        return 'JPEG alters values, so export label maps as PNG'
    return "relabel its pixels, or correct metainfo.classes and the heads' num_classes"
