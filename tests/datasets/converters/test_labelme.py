import base64
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as run_lengths

from mmfocal.datasets.converters import convert
from mmfocal.errors import MissingFileError

sys.path.insert(0, str(Path(__file__).parent))
from trees import boxes, converted, errors, image, text

TRIANGLE = [[10, 10], [30, 10], [20, 30]]


def shape(label, kind, points, **more):
    return dict(label=label, shape_type=kind, points=points, group_id=None, flags={}) | more


def labelme(path, *shapes, **more):
    content = dict(version='5.4.1', flags={}, shapes=list(shapes), imagePath=f'{path.stem}.png', imageData=None)
    return text(path, json.dumps(content | dict(imageHeight=50, imageWidth=100) | more))


@pytest.fixture
def src(tmp_path):
    image(tmp_path / 'src/a.png')
    return tmp_path / 'src'


def test_shapes(src, tmp_path):
    labelme(
        src / 'a.json',
        shape('cat', 'polygon', TRIANGLE, flags=dict(blurred=True, hidden=False)),
        shape('dog', 'rectangle', [[60, 40], [40, 20]]),  # corners in any order
        shape('sun', 'circle', [[50, 25], [60, 25]]),
        shape('cat', 'line', [[1, 1], [9, 9]]),
        shape('cat', 'point', [[1, 1]]),
        shape('cat', 'spline', [[1, 1]]),
        shape('__ignore__', 'rectangle', [[1, 1], [9, 9]]),
    )
    splits, notes = converted('labelme', src, tmp_path / 'dst')
    cat, dog, sun = splits['train']['annotations']
    assert cat['segmentation'] == [[10.0, 10.0, 30.0, 10.0, 20.0, 30.0]] and cat['attributes'] == dict(blurred=True)
    assert dog['bbox'] == [40.0, 20.0, 20.0, 20.0] and 'segmentation' not in dog and dog['area'] == 400
    assert sun['bbox'] == [40.0, 15.0, 20.0, 20.0] and abs(sun['area'] - np.pi * 100) < 12
    for part in ('type line were', 'type point were', "unknown type 'spline'", '__ignore__ were', 'but no outline'):
        assert any(part in note and note.startswith('1 ') for note in notes), (part, notes)


def test_groups_are_one_object(src, tmp_path):
    other = [[70, 10], [90, 10], [80, 30]]
    parts = [shape('cat', 'polygon', points, group_id=1) for points in (TRIANGLE, other)]
    labelme(src / 'a.json', *parts, shape('dog', 'polygon', TRIANGLE, group_id=1))
    splits, notes = converted('labelme', src, tmp_path / 'dst')
    cat, dog = splits['train']['annotations']
    assert len(cat['segmentation']) == 2 and cat['bbox'] == [10.0, 10.0, 80.0, 20.0] and len(dog['segmentation']) == 1
    assert notes[0].startswith('1 parts were joined')


def test_masks(src, tmp_path):
    part = np.zeros((11, 21), np.uint8)
    part[2:, 5:] = 255
    encoded = base64.b64encode(cv2.imencode('.png', part)[1]).decode()
    labelme(src / 'a.json', shape('cat', 'mask', [[30, 20], [50, 30]], mask=encoded))
    splits, _ = converted('labelme', src, tmp_path / 'dst')
    (cat,) = splits['train']['annotations']
    mask = run_lengths.decode(cat['segmentation'])
    assert cat['bbox'] == [35.0, 22.0, 16.0, 9.0] and cat['area'] == mask[22:31, 35:51].sum() == mask.sum() == 144


def test_the_image(src, tmp_path):
    """By a path with backslashes, or embedded; the image that exists is taken."""
    labelme(src / 'x/a.json', shape('cat', 'polygon', TRIANGLE), imagePath='..\\a.png')
    data = base64.b64encode(cv2.imencode('.png', np.full((50, 100, 3), 9, np.uint8))[1]).decode()
    labelme(src / 'b.json', shape('cat', 'polygon', TRIANGLE), imageData=data, imagePath='gone.png')
    splits, notes = converted('labelme', src, tmp_path / 'dst')
    assert list(boxes(splits['train'])) == ['b.png', 'a.png']
    assert (cv2.imread(str(tmp_path / 'dst/images/b.png')) == 9).all()
    assert notes == [f'1 images are missing and were written from the embedded imageData (first: {src / "b.json"})']


def test_an_image_outside_the_folder_has_a_name_inside(src, tmp_path):
    image(tmp_path / 'other/z.png')
    labelme(src / 'a.json', shape('cat', 'polygon', TRIANGLE), imagePath='../other/z.png')
    splits, _ = converted('labelme', src, tmp_path / 'dst')
    assert list(boxes(splits['train'])) == ['z.png']


def test_splits_and_the_class_list(src, tmp_path):
    for split in ('train', 'val'):
        image(src / f'{split}/{split}.png')
        labelme(src / f'{split}/{split}.json', shape('cat', 'polygon', TRIANGLE))
    text(src / 'labels.txt', '__ignore__\n_background_\nzebra\ncat\n')
    labelme(src / 'a.json', shape('cat', 'polygon', TRIANGLE))
    splits, notes = converted('labelme', src, tmp_path / 'dst')
    assert boxes(splits['val']) == {'val/val.png': [('cat', [10.0, 10.0, 20.0, 20.0])]}
    assert notes[0].startswith('1 files outside the folders of the splits (train, val) were left out')
    assert splits['val']['categories'] == [dict(id=1, name='zebra'), dict(id=2, name='cat')]


@pytest.mark.parametrize(
    'shapes, more, message',
    [
        ([shape('', 'polygon', TRIANGLE)], {}, 'it has no label'),
        ([shape('cat', 'polygon', TRIANGLE[:2])], {}, 'a polygon of 2 points'),
        ([shape('cat', 'polygon', [[1], [2], [3]])], {}, 'no pairs of x and y'),
        ([shape('cat', 'mask', [[1, 1]], mask='!')], {}, 'its mask is no PNG'),
        ([shape('cat', 'polygon', [[1, 1], [900, 1], [9, 9]])], {}, 'far outside'),
        ([], dict(imageWidth=10), 'but its annotations are for 10 x 50 px'),
        ([], dict(imagePath='gone.png'), 'image gone.png not found, none embedded'),
        ([], dict(imagePath='gone.png', imageData='AAAA'), 'imageData holds none'),
        ([], dict(shapes=None), 'no list of shapes'),
    ],
)
def test_files_that_cannot_be_converted(src, tmp_path, shapes, more, message):
    image(src / 'b.png')
    labelme(src / 'b.json', shape('cat', 'polygon', TRIANGLE))
    labelme(src / 'a.json', *shapes, **more)
    (error,) = errors('labelme', src, tmp_path / 'dst')
    assert message in error and str(src / 'a.') in error


def test_one_image_twice_and_none(src, tmp_path):
    labelme(src / 'a.json', shape('cat', 'polygon', TRIANGLE))
    labelme(src / 'b.json', shape('cat', 'polygon', TRIANGLE), imagePath='a.png')
    assert 'annotates a.png, as' in errors('labelme', src, tmp_path / 'dst')[0]
    (tmp_path / 'empty').mkdir()
    with pytest.raises(MissingFileError, match='no JSON file'):
        convert('labelme', tmp_path / 'empty', tmp_path / 'dst')
