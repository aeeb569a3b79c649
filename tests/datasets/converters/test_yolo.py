import sys
from pathlib import Path

import pytest
import yaml

from mmfocal.datasets.converters import convert
from mmfocal.errors import UserError

sys.path.insert(0, str(Path(__file__).parent))
from trees import boxes, converted, errors, image, text

BOX = '1 0.5 0.5 0.2 0.4\n'  # of 100 x 50 px
PX = ('dog', [40.0, 15.0, 20.0, 20.0])


def describe(src, **content):
    settings = dict(names=['cat', 'dog'], train='images/train', val='images/val') | content
    return text(src / 'data.yaml', yaml.safe_dump(settings))


@pytest.fixture
def src(tmp_path):
    src = tmp_path / 'src'
    for split, stem in (('train', 'a'), ('train', 'b'), ('val', 'c')):
        image(src / f'images/{split}/{stem}.png')
        text(src / f'labels/{split}/{stem}.txt', BOX)
    describe(src)
    return src


def test_fractions_become_pixels(src, tmp_path):
    splits, notes = converted('yolo', src, tmp_path / 'dst')
    assert boxes(splits['train']) == {'train/a.png': [PX], 'train/b.png': [PX]} and not notes
    assert boxes(splits['val']) == {'val/c.png': [PX]}
    assert [category['name'] for category in splits['val']['categories']] == ['cat', 'dog']


@pytest.mark.parametrize(
    'content',
    [
        dict(names={0: 'cat', 1: 'dog'}, nc=2),
        dict(path='.', train=['images/train']),
        dict(path='../elsewhere'),
        dict(train='../images/train', val='../images/val'),  # as Roboflow writes
        dict(test='images/test'),
        dict(train='train.txt'),
    ],
    ids=str,
)
def test_descriptions(src, tmp_path, content):
    describe(src, **content)
    text(src / 'train.txt', './images/train/a.png\nimages/train/b.png\nimages/train/b.png\n')
    splits, _ = converted('yolo', src / 'data.yaml', tmp_path / 'dst')
    assert {name: len(coco['images']) for name, coco in splits.items()} == dict(train=2, val=1)


@pytest.mark.parametrize('name', ['classes.txt', 'obj.names'])
def test_class_files_and_labels_beside_images(tmp_path, name):
    src = tmp_path / 'src'
    image(src / 'a.png')
    text(src / 'a.txt', BOX)
    text(src / name, 'cat\ndog\n')
    splits, _ = converted('yolo', src, tmp_path / 'dst')
    assert boxes(splits['train']) == {'a.png': [PX]}


def test_darknet(tmp_path):
    src = tmp_path / 'src'
    for stem in 'ab':
        image(src / f'data/obj/{stem}.png')
        text(src / f'data/obj/{stem}.txt', BOX)
        text(src / f'data/{stem}.txt', f'data/obj/{stem}.png\n')
    text(src / 'obj.data', 'classes = 2\ntrain = data/a.txt\nvalid = data/b.txt\nnames = data/obj.names\n')
    text(src / 'data/obj.names', 'cat\ndog\n')
    splits, _ = converted('yolo', src, tmp_path / 'dst')
    assert boxes(splits['val']) == {'data/obj/b.png': [PX]}


def test_background_duplicates_and_orphans(src, tmp_path):
    text(src / 'labels/train/a.txt', '')
    (src / 'labels/val/c.txt').unlink()
    text(src / 'labels/train/b.txt', BOX + BOX)
    text(src / 'labels/train/z.txt', BOX)
    splits, notes = converted('yolo', src, tmp_path / 'dst')
    assert boxes(splits['train']) == {'train/a.png': [], 'train/b.png': [PX]} and boxes(splits['val']) == {
        'val/c.png': []
    }
    for part in (
        '1 label files are empty',
        '1 images have no label file',
        '1 objects were listed twice',
        'have no image',
    ):
        assert any(part in note for note in notes), (part, notes)


def test_polygons(src, tmp_path):
    text(src / 'labels/train/a.txt', '0 0.1 0.2 0.3 0.2 0.2 0.6\n' + BOX)
    splits, notes = converted('yolo', src, tmp_path / 'dst')
    polygon = splits['train']['annotations'][0]
    assert polygon['segmentation'] == [[10.0, 10.0, 30.0, 10.0, 20.0, 30.0]] and polygon['bbox'] == [
        10.0,
        10.0,
        20.0,
        20.0,
    ]
    assert 180 < polygon['area'] < 220
    assert '3 objects have a box but no outline' in notes[0]


@pytest.mark.parametrize(
    'rotated, polygons', [('box', None), ('polygon', [[50.0, 5.0, 70.0, 25.0, 50.0, 45.0, 30.0, 25.0]])]
)
def test_rotated_rectangles(src, tmp_path, rotated, polygons):
    for path in (src / 'labels').rglob('*.txt'):
        path.write_text('0 0.5 0.1 0.7 0.5 0.5 0.9 0.3 0.5\n')
    splits, notes = converted('yolo', src, tmp_path / 'dst', rotated=rotated)
    entry = splits['train']['annotations'][0]
    assert entry['bbox'] == [30.0, 5.0, 40.0, 40.0] and entry.get('segmentation') == polygons
    assert '3 rotated rectangles (8 numbers) became' in notes[0]
    assert len(errors('yolo', src, tmp_path / 'none', rotated='refuse')) == 3


def test_four_points_among_other_polygons_are_a_polygon(src, tmp_path):
    text(src / 'labels/train/a.txt', '0 0.5 0.1 0.7 0.5 0.5 0.9 0.3 0.5\n0 0.1 0.2 0.3 0.2 0.2 0.6\n')
    splits, _ = converted('yolo', src, tmp_path / 'dst')
    assert len(splits['train']['annotations'][0]['segmentation'][0]) == 8


def test_a_little_outside_is_clipped(src, tmp_path):
    text(src / 'labels/train/a.txt', '1 0.95 0.5 0.2 0.4\n')
    splits, notes = converted('yolo', src, tmp_path / 'dst')
    assert boxes(splits['train'])['train/a.png'] == [('dog', [85.0, 15.0, 15.0, 20.0])]
    assert notes[0].startswith('1 objects extend beyond their image and were clipped')


def test_keypoints(src, tmp_path):
    describe(src, kpt_shape=[2, 3])
    for path in (src / 'labels').rglob('*.txt'):
        path.write_text(BOX.strip() + ' 0.1 0.1 2 0.2 0.2 2\n')
    splits, notes = converted('yolo', src, tmp_path / 'dst')
    assert boxes(splits['val']) == {'val/c.png': [PX]} and '3 objects have keypoints' in notes[0]


@pytest.mark.parametrize(
    'rows, message',
    [
        (
            '2 0.5 0.5 0.2 0.4\n' + BOX,
            '1 of 2 rows are invalid, the first in line 1: class 2, but classes are numbered 0 to 1',
        ),
        ('-1 0.5 0.5 0.2 0.4', 'class -1'),
        ('1 50 25 20 20', 'no fractions of the image'),
        ('1 0.9 0.5 0.9 0.4', 'far outside'),
        ('1 0.5 0.5 -0.2 0.4', 'width -0.2'),
        ('1 0.5 0.5 0.2', '4 numbers; write class and 4 numbers'),
        ('1 0.5 0.5 0.2 0.4 0.9', '6 numbers'),
        ('1 0.5 0.5 nan 0.4', "'nan'; write a finite number"),
        ('dog 0.5 0.5 0.2 0.4', "'dog'; write a finite number"),
    ],
)
def test_rows_that_cannot_be_converted(src, tmp_path, rows, message):
    text(src / 'labels/train/a.txt', rows)
    (error,) = errors('yolo', src, tmp_path / 'dst')
    assert message in error and 'labels/train/a.txt' in error


@pytest.mark.parametrize(
    'content, message',
    [
        (dict(names={0: 'cat', 2: 'dog'}), 'names has no class 1'),
        (dict(names=['cat', 'cat']), "names has 'cat' twice"),
        (dict(names=None), 'has no list names'),
        (dict(nc=3), 'nc is 3, but names has 2'),
        (dict(train='images/nowhere'), 'images/nowhere not found'),
    ],
    ids=str,
)
def test_descriptions_that_cannot_be_used(src, tmp_path, content, message):
    describe(src, **content)
    with pytest.raises(UserError, match=message):
        convert('yolo', src, tmp_path / 'dst')


def test_what_is_missing(src, tmp_path):
    (src / 'data.yaml').unlink()
    with pytest.raises(UserError, match='no data.yaml, classes.txt'):
        convert('yolo', src, tmp_path / 'dst')
    text(src / 'classes.txt', 'cat\ndog\n')
    image(src / 'images/other/z.png')
    splits, notes = converted('yolo', src, tmp_path / 'dst')
    assert set(splits) == {'train', 'val'} and notes[0].startswith('1 files outside the folders')
    for path in (src / 'labels').rglob('*.txt'):
        path.unlink()
    with pytest.raises(UserError, match='no image has a label file'):
        convert('yolo', src, tmp_path / 'dst2')
