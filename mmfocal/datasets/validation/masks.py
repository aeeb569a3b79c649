"""Whether an annotation's mask, polygons or run lengths, can be drawn by pycocotools.

pycocotools trusts its input: run lengths that do not sum to the size, or a coordinate far away, end in an unrelated
error at best.
"""

import math
from typing import Any

import numpy as np

from mmfocal.datasets.validation.issues import shorten

MAX_COORDINATE = 1e5  # px from the origin; drawing takes time and memory in proportion to length


def find_mask_problem(segmentation: Any, height: int, width: int) -> tuple[str, str] | None:
    """Returns what is wrong with a mask.

    Args:
        segmentation: The annotation's `segmentation`.
        height, width: The image's recorded size in px.

    Returns:
        Kind and description of the problem, or None.
    """
    if not segmentation:
        return 'no mask', 'no segmentation'
    if isinstance(segmentation, list):
        return _find_polygon_problem(segmentation)
    if isinstance(segmentation, dict):
        return _find_run_length_problem(segmentation, height, width)
    return 'invalid mask', f'the segmentation {shorten(segmentation)}, neither polygons nor run lengths'


def is_short(polygon: list) -> bool:
    """Returns whether a polygon has fewer than three points; MMDetection drops such polygons."""
    return len(polygon) < 6


def decode_run_lengths(counts: list[int] | str) -> list[int] | None:
    """Returns COCO's run lengths as a list, or None if they cannot be read."""
    if isinstance(counts, list):
        return counts if all(type(count) is int and count >= 0 for count in counts) else None
    return _decompress(counts) if isinstance(counts, str) else None


def _find_polygon_problem(polygons: list) -> tuple[str, str] | None:
    if all(type(value) in (int, float) for value in polygons):
        return 'invalid polygon', 'one flat list of coordinates, as VIA writes, instead of a list of such lists'
    for polygon in polygons:
        if not isinstance(polygon, list):
            return 'invalid polygon', f'{shorten(polygon)} instead of a list of coordinates'
        try:
            sound = not polygon or (
                math.isfinite(sum(polygon)) and -MAX_COORDINATE <= min(polygon) and max(polygon) <= MAX_COORDINATE
            )
        except (TypeError, OverflowError):
            sound = False
        if not sound:
            return 'invalid polygon', 'a polygon with coordinates that are not finite numbers, or far away'
        if len(polygon) % 2:
            return 'invalid polygon', f'a polygon with an odd number of coordinates, {len(polygon)}'
    if all(map(is_short, polygons)):
        points = max(len(polygon) // 2 for polygon in polygons)
        hint = ' (opposite corners of a rectangle need all four)' if points == 2 else ''
        return 'no mask', f'no polygon of three points or more{hint}'
    return None


def _find_run_length_problem(mask: dict, height: int, width: int) -> tuple[str, str] | None:
    size = mask.get('size')
    if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int for side in size)):
        return 'invalid RLE', f'run lengths of the size {shorten(size)}, not [height, width]'
    if size != [height, width]:
        return 'RLE of another size', f'run lengths of {size[1]} x {size[0]} px, but its image has {width} x {height}'
    lengths = decode_run_lengths(mask.get('counts'))
    if lengths is None:
        return 'invalid RLE', 'run lengths that cannot be read'
    if sum(lengths) != height * width:
        return 'invalid RLE', f'run lengths that sum to {sum(lengths)}, not to the {height * width} pixels'
    return None


def _decompress(text: str) -> list[int] | None:
    """Returns COCO's run lengths from their text, or None.

    A length is written in digits of 5 bits, low ones first, with a sixth bit if more follow; from the fourth on it is
    the difference to the length before the last.
    """
    try:
        digits = np.frombuffer(text.encode('ascii'), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        return None
    if not len(digits) or digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        return None
    ends = np.flatnonzero(digits & 32 == 0)
    starts = np.append(0, ends[:-1] + 1)
    sizes = ends - starts + 1
    if sizes.max() > 7:  # more than 32 bits
        return None
    place = np.arange(len(digits)) - np.repeat(starts, sizes)
    values = np.add.reduceat((digits & 31) << 5 * place, starts)
    values -= np.where(digits[ends] & 16, 1 << 5 * sizes, 0)
    values[1::2], values[2::2] = values[1::2].cumsum(), values[2::2].cumsum()
    return values.tolist() if values.min() >= 0 else None
