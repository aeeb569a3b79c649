"""A mask is called sound only if pycocotools draws it, in the image's size."""

import numpy as np
import pytest
from pycocotools import mask as rle

from mmfocal.datasets.validation.masks import find_mask_problem, is_short

NAN = float('nan')


@pytest.mark.parametrize('seed', range(20))
def test_run_lengths_of_any_mask_are_sound(seed):
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(1, 300, 2))
    drawn = rng.random((height, width)) < rng.choice([0, 1e-3, 0.5, 1])
    drawn[: int(rng.integers(height + 1))] ^= True
    coded = rle.encode(np.asfortranarray(drawn).view(np.uint8))
    compressed = dict(size=[height, width], counts=coded['counts'].decode())
    values = np.r_[False, drawn.ravel('F')]
    counts = np.diff(np.r_[0, np.flatnonzero(np.diff(values)), height * width]).tolist()
    for mask in (compressed, dict(size=[height, width], counts=counts)):
        assert find_mask_problem(mask, height, width) is None
        kind, what = find_mask_problem(mask, height + 1, width)
        assert kind == 'RLE of another size' and f'run lengths of {width} x {height} px' in what
    assert find_mask_problem(dict(compressed, size=[height, width + 1]), height, width + 1)[0] == 'invalid RLE'
    assert find_mask_problem(dict(compressed, counts=compressed['counts'][:-1]), height, width)[0] == 'invalid RLE'


@pytest.mark.parametrize(
    'mask, kind',
    [
        (None, 'no mask'),
        ([[]], 'no mask'),
        ([[1, 2]], 'no mask'),
        ([[1, 2, 3, 4]], 'no mask'),
        ([], 'no mask'),
        ({}, 'no mask'),
        ('abc', 'invalid mask'),
        (5, 'invalid mask'),
        ([[1, 2, 3, 4, 5]], 'invalid polygon'),
        ([[1, 2, NAN, 4, 5, 6]], 'invalid polygon'),
        ([1, 2, 3], 'invalid polygon'),
        ([[1, 2, '3', 4, 5, 6]], 'invalid polygon'),
        ([[1, 2, 1e30, 4, 5, 6]], 'invalid polygon'),
        ([[1, 2, 10**400, 4, 5, 6]], 'invalid polygon'),
        ([[0, 0, 9, 0, 9, 9], None], 'invalid polygon'),
        (dict(counts=[100, 20]), 'invalid RLE'),
        (dict(counts=[100, 20], size=[10]), 'invalid RLE'),
        (dict(counts=[100, 20], size=['10', 12]), 'invalid RLE'),
        (dict(counts=[100, 21], size=[10, 12]), 'invalid RLE'),
        (dict(counts=[140, -20], size=[10, 12]), 'invalid RLE'),
        (dict(counts=[100.0, 20], size=[10, 12]), 'invalid RLE'),
        (dict(counts='', size=[10, 12]), 'invalid RLE'),
        (dict(counts='o', size=[10, 12]), 'invalid RLE'),
        (dict(counts='oooooooooo0', size=[10, 12]), 'invalid RLE'),
        (dict(counts='é', size=[10, 12]), 'invalid RLE'),
        (dict(counts='~~', size=[10, 12]), 'invalid RLE'),
        (dict(counts=None, size=[10, 12]), 'invalid RLE'),
    ],
    ids=str,
)
def test_what_cannot_be_drawn(mask, kind):
    assert find_mask_problem(mask, 10, 12)[0] == kind


def test_a_flat_list_is_named():
    assert 'one flat list of coordinates, as VIA writes' in find_mask_problem([0, 0, 9, 0, 9, 9], 10, 12)[1]


def test_sound_and_short_polygons():
    assert find_mask_problem([[0, 0, 9.5, 0, 9.5, 9], [1, 2, 3, 4]], 10, 12) is None
    assert is_short([1, 2, 3, 4]) and not is_short([0, 0, 9.5, 0, 9.5, 9])
