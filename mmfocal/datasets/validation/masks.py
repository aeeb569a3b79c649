"""Whether a COCO annotation's mask can be drawn: polygons, and run lengths as numbers or compressed.

What draws them, pycocotools, takes much on trust: run lengths that do not sum to the size, or a coordinate
far away, cost an unrelated error at best.
"""

import math

import numpy as np

from mmfocal.datasets.validation.issues import short

FAR = 1e5  # px from the origin, beyond which an outline cannot be meant; drawing costs time and memory by length


def mask_fault(segmentation, height, width):
    """Looks at one mask.

    Args:
        segmentation: The annotation's `segmentation`.
        height, width (int): The image's recorded size in px.

    Returns:
        tuple[str, str] | None: Kind and description of what is wrong, or None.
    """
    if not segmentation:
        return 'no mask', 'no segmentation'
    if isinstance(segmentation, list):
        return _polygon_fault(segmentation)
    if isinstance(segmentation, dict):
        return _run_length_fault(segmentation, height, width)
    return 'invalid mask', f'the segmentation {short(segmentation)}, neither polygons nor run lengths'


def short_polygons(segmentation):
    """How many of a mask's polygons have fewer than three points; MMDetection leaves them out."""
    return sum(len(polygon) < 6 for polygon in segmentation) if isinstance(segmentation, list) else 0


def _polygon_fault(polygons):
    for polygon in polygons:
        if not isinstance(polygon, list):
            return 'invalid polygon', f'{short(polygon)} in place of a list of coordinates'
        try:
            total = sum(polygon)
            sound = not polygon or math.isfinite(total) and -FAR <= min(polygon) and max(polygon) <= FAR
        except (TypeError, OverflowError):
            sound = False
        if not sound:
            return 'invalid polygon', 'a polygon with coordinates that are no numbers, not finite, or far away'
        if len(polygon) % 2:
            return 'invalid polygon', f'a polygon with an odd number of coordinates, {len(polygon)}'
    return None


def _run_length_fault(mask, height, width):
    counts, size = mask.get('counts'), mask.get('size')
    if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int for side in size)):
        return 'invalid RLE', f'run lengths of the size {short(size)}, not [height, width]'
    if size != [height, width]:
        return 'RLE of another size', f"run lengths of {size[1]} x {size[0]} px, not its image's {width} x {height}"
    if isinstance(counts, list):
        lengths = counts if all(type(count) is int and count >= 0 for count in counts) else None
    else:
        lengths = _decompress(counts) if isinstance(counts, str) else None
    if lengths is None:
        return 'invalid RLE', 'run lengths that cannot be read'
    if sum(lengths) != height * width:
        return 'invalid RLE', f'run lengths that sum to {sum(lengths)}, not to the {height * width} pixels'
    return None


def _decompress(text):
    """COCO's run lengths from their text, or None where they cannot be.

    A length is written in digits of 5 bits, low ones first, with a sixth bit where more follow; from the
    fourth on it is the difference to the length before the last.
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
