"""Whether boxes fit the outlines of their masks, and which mistake explains those that do not."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as rle

from mmfocal.datasets.validation.issues import Issue, shorten
from mmfocal.datasets.validation.learnable import FORMATS, fits_image
from mmfocal.datasets.validation.masks import decode_run_lengths, is_short

MIN_IOU = 0.5  # of a box with the box of its outline
Box = Sequence[float]  # x, y, width, height


class OutlineComparer:
    """Compares boxes with the boxes of their outlines, and finds the likely cause of differences.

    Args:
        name: What messages call the annotation file.
        masks: Whether masks are loaded; if not, wrong outlines are no error.
    """

    def __init__(self, name: str, masks: bool):
        self.name, self.masks = name, masks
        self.compared = 0
        self.different: list[tuple[dict, dict, Box]] = []  # annotation, image, box of the outline

    def add(self, annotation: dict, image: dict) -> bool:
        """Compares an annotation that has a valid box and mask; returns whether they fit."""
        outline = _box_of(annotation['segmentation'])
        self.compared += 1
        if _iou(annotation['bbox'], outline) >= MIN_IOU:
            return True
        self.different.append((annotation, image, outline))
        return False

    def find_issues(self) -> list[Issue]:
        """Returns one error with the likely cause if most boxes differ from their outlines, else warnings."""
        if not self.different:
            return []
        cause = self._find_cause()
        of_boxes = cause in BOX_CAUSES
        remedy = f'{cause}; export them again' if cause else 'export boxes and masks again'
        if len(self.different) > self.compared / 2 and self.compared > 1:
            annotation = self.different[0][0]
            message = (
                f'{self.name}: {len(self.different)} of {self.compared} boxes differ from the outlines of their masks, '
                f'first annotation {shorten(annotation["id"])}; {remedy}'
            )
            level = 'error' if self.masks or of_boxes else 'warning'
            return [Issue('box differs from mask', message, self.name, annotation=annotation['id'], level=level)]
        issues = []
        for annotation, _, outline in self.different:
            message = (
                f'{self.name}: annotation {shorten(annotation["id"])} has the box {shorten(annotation["bbox"])}, but '
                f'its outline lies in {shorten([round(float(side), 1) for side in outline])}; {remedy}'
            )
            issues.append(
                Issue(
                    'box differs from mask',
                    message,
                    self.name,
                    annotation['image_id'],
                    annotation['id'],
                    level='warning',
                )
            )
        return issues

    def _find_cause(self) -> str:
        """Returns the mistake that explains most of the differences, or an empty text."""
        fits = {cause: self._count(test) for cause, test in {**BOX_CAUSES, **OUTLINE_CAUSES}.items()}
        scale = _median_ratio([(annotation['bbox'], outline) for annotation, _, outline in self.different])
        if scale:
            what = (
                f'outlines are {scale:.3g} times as large as boxes'
                if scale < 1
                else (f'boxes are {1 / scale:.3g} times as large as outlines')
            )
            fits[what] = self._count(
                lambda annotation, image, outline: (annotation['bbox'], [side / scale for side in outline])
            )
        # Boxes that read y before x look as outlines do that do: those that extend beyond their images are wrong.
        beyond = {
            True: sum(not fits_image(annotation['bbox'], image) for annotation, image, _ in self.different),
            False: sum(not fits_image(outline, image) for _, image, outline in self.different),
        }
        cause = max(fits, key=lambda one: (fits[one], beyond[one in BOX_CAUSES]))
        return cause if fits[cause] >= max(1, len(self.different) / 2) else ''

    def _count(self, test: Callable[[dict, dict, Box], tuple[Box, Box] | None]) -> int:
        number = 0
        for annotation, image, outline in self.different:
            pair = test(annotation, image, outline)
            number += pair is not None and _iou(*pair) >= MIN_IOU
        return number


def _scale(box: Box, image: dict) -> list[float]:
    width, height = image['width'], image['height']
    return [box[0] * width, box[1] * height, box[2] * width, box[3] * height]


def _transpose_run_lengths(annotation: dict, image: dict, outline: Box) -> tuple[Box, Box] | None:
    """Reads run lengths by rows instead of COCO's columns."""
    segmentation = annotation['segmentation']
    lengths = decode_run_lengths(segmentation['counts']) if isinstance(segmentation, dict) else None
    if lengths is None:
        return None
    flat = np.repeat(np.arange(len(lengths)) % 2, lengths).reshape(image['height'], image['width'])
    rows, columns = np.flatnonzero(flat.any(1)), np.flatnonzero(flat.any(0))
    if not len(rows):
        return None
    box = [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]
    return annotation['bbox'], list(map(float, box))


# What may explain a difference, and the box and the outline's box as they are then.
Test = Callable[[dict, dict, Box], 'tuple[Box, Box] | None']
BOX_CAUSES: dict[str, Test] = {
    f'boxes are {name}, not [x, y, width, height]': (
        lambda annotation, image, outline, convert=convert: (convert(annotation['bbox']), outline)
    )
    for name, convert in FORMATS.items()
}
BOX_CAUSES['boxes are normalized to 0–1'] = lambda annotation, image, outline: (
    _scale(annotation['bbox'], image),
    outline,
)
OUTLINE_CAUSES: dict[str, Test] = {
    'outlines are normalized to 0–1': lambda annotation, image, outline: (annotation['bbox'], _scale(outline, image)),
    'outlines list y before x': lambda annotation, image, outline: (
        annotation['bbox'],
        (outline[1], outline[0], outline[3], outline[2]),
    ),
    "run lengths go by rows, not by COCO's columns": _transpose_run_lengths,
}


def _box_of(segmentation: list | dict) -> Box:
    """Returns the box of valid polygons or run lengths."""
    if isinstance(segmentation, list):
        polygons = [polygon for polygon in segmentation if not is_short(polygon)]
        x0, y0 = min(min(polygon[::2]) for polygon in polygons), min(min(polygon[1::2]) for polygon in polygons)
        x1, y1 = max(max(polygon[::2]) for polygon in polygons), max(max(polygon[1::2]) for polygon in polygons)
        return x0, y0, x1 - x0, y1 - y0
    coded: Any = segmentation
    if isinstance(segmentation['counts'], list):
        coded = rle.frPyObjects(segmentation, *segmentation['size'])
    return rle.toBbox(coded).tolist()


def _iou(first: Box, second: Box) -> float:
    """Returns the intersection over union of two boxes; one without a size counts as one pixel wide."""
    (x0, y0, w0, h0), (x1, y1, w1, h1) = first, second
    w0, h0, w1, h1 = max(w0, 1), max(h0, 1), max(w1, 1), max(h1, 1)
    width = min(x0 + w0, x1 + w1) - max(x0, x1)
    height = min(y0 + h0, y1 + h1) - max(y0, y1)
    shared = max(width, 0) * max(height, 0)
    return shared / (w0 * h0 + w1 * h1 - shared)


def _median_ratio(pairs: list[tuple[Box, Box]]) -> float | None:
    """Returns how many times as large outlines are as boxes, or None if it is about 1."""
    ratios = [outline[2] / box[2] for box, outline in pairs if box[2] > 0 and outline[2] > 0]
    ratio = float(np.median(ratios)) if ratios else 1.0
    return ratio if ratio < 0.8 or ratio > 1.25 else None
