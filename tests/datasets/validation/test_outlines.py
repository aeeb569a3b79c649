"""Boxes that differ from the outlines of their masks are reported with the likely cause."""

import numpy as np
import pytest
from pycocotools import mask as rle

from mmfocal.datasets.validation.annotations import validate_annotations

WIDTH, HEIGHT = 96, 64
BOXES = [(10, 8, 30, 12), (40, 20, 14, 30), (2, 30, 20, 28), (60, 4, 30, 18), (30, 40, 50, 20)]


def outline_of(x, y, width, height):
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def run_lengths_of(x, y, width, height, order='F', compress=False):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y : y + height, x : x + width] = 1
    flat = np.r_[0, mask.ravel(order)]
    coded = dict(size=[HEIGHT, WIDTH], counts=np.diff(np.r_[0, np.flatnonzero(np.diff(flat)), mask.size]).tolist())
    if compress:
        coded = rle.frPyObjects(coded, HEIGHT, WIDTH)
        coded['counts'] = coded['counts'].decode()
    return coded


def find(annotations, masks=True):
    coco = dict(
        images=[dict(id=1, file_name='1.jpg', width=WIDTH, height=HEIGHT)],
        categories=[dict(id=1, name='van')],
        annotations=[
            dict(id=i, image_id=1, category_id=1, bbox=list(box), area=100, iscrowd=0, segmentation=segmentation)
            for i, (box, segmentation) in enumerate(annotations)
        ],
    )
    issues, _ = validate_annotations(coco, 'my.json', ('van',), masks=masks)
    return [issue for issue in issues if issue.level != 'note']


def scaled(values, x, y):
    return [[value * (x, y)[index % 2] for index, value in enumerate(values[0])]]


@pytest.mark.parametrize('encode', [outline_of, run_lengths_of, lambda *box: run_lengths_of(*box, compress=True)])
def test_sound_masks_have_no_issue(encode):
    assert find([(box, encode(*box)) for box in BOXES]) == []


@pytest.mark.parametrize(
    'annotate, cause',
    [
        (
            lambda b: ((b[0] + b[2] / 2, b[1] + b[3] / 2, b[2], b[3]), outline_of(*b)),
            r'[centre x, centre y, width, height]',
        ),
        (lambda b: ((b[0], b[1], b[0] + b[2], b[1] + b[3]), outline_of(*b)), r'[x1, y1, x2, y2]'),
        (lambda b: ((b[1], b[0], b[3], b[2]), outline_of(*b)), r'[y, x, height, width]'),
        (lambda b: (b, scaled(outline_of(*b), 0.5, 0.5)), 'outlines are 0.5 times as large as boxes'),
        (lambda b: (b, scaled(outline_of(*b), 2, 2)), 'boxes are 0.5 times as large as outlines'),
        (lambda b: (b, scaled(outline_of(*b), 1 / WIDTH, 1 / HEIGHT)), 'outlines are normalized to 0–1'),
        (lambda b: (b, outline_of(b[1], b[0], b[3], b[2])), 'outlines list y before x'),
        (lambda b: (b, run_lengths_of(*b, order='C')), "run lengths go by rows, not by COCO's columns"),
        (lambda b: (b, run_lengths_of(*b, order='C', compress=True)), "run lengths go by rows, not by COCO's columns"),
    ],
)
def test_the_likely_cause_is_named(annotate, cause):
    issues = find([annotate(box) for box in BOXES])
    errors = [issue for issue in issues if issue.level == 'error']
    (error,) = [issue for issue in errors if issue.kind == 'box differs from mask'] or [None]
    assert cause in error.message and '\n' not in error.message
    assert 'box beyond the image' not in {issue.kind for issue in issues}, 'the size is not blamed'


def test_single_ones_are_warnings():
    annotations = [(box, outline_of(*box)) for box in BOXES]
    annotations[2] = (BOXES[2], outline_of(50, 2, 9, 9))
    (issue,) = find(annotations)
    assert (issue.level, issue.kind, issue.annotation) == ('warning', 'box differs from mask', 2)
    assert 'has the box [2, 30, 20, 28], but its outline lies in [50' in issue.message


def test_wrong_outlines_are_no_error_if_masks_are_not_loaded():
    (issue,) = find([(box, scaled(outline_of(*box), 0.5, 0.5)) for box in BOXES], masks=False)
    assert issue.level == 'warning'
    issues = find([((x + w / 2, y + h / 2, w, h), outline_of(x, y, w, h)) for x, y, w, h in BOXES], masks=False)
    assert 'error' in {issue.level for issue in issues}, 'wrong boxes are'
