import os
import sys
from pathlib import Path

import pytest

from mmfocal.datasets.converters import convert
from mmfocal.errors import DataError, MissingFileError

sys.path.insert(0, str(Path(__file__).parent))
from trees import boxes, converted, errors, image, text


def voc(*objects, size='<size><width>100</width><height>50</height></size>', filename='a.png'):
    return f'<annotation><filename>{filename}</filename>{size}{"".join(objects)}</annotation>'


def thing(name, left, top, right, bottom, more=''):
    corners = dict(xmin=left, ymin=top, xmax=right, ymax=bottom)
    box = ''.join(f'<{key}>{value}</{key}>' for key, value in corners.items())
    return f'<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>'


@pytest.fixture
def src(tmp_path):
    src = tmp_path / 'src'
    for stem in 'abc':
        image(src / f'JPEGImages/{stem}.png')
        text(src / f'Annotations/{stem}.xml', voc(thing('cat', 1, 1, 100, 50), filename=f'{stem}.png'))
    return src


def test_corners_are_pixels_that_count_from_1(src, tmp_path):
    splits, notes = converted('voc', src, tmp_path / 'dst')
    assert boxes(splits['train'])['a.png'] == [('cat', [0.0, 0.0, 100.0, 50.0])] and not notes
    assert os.path.islink(tmp_path / 'dst/images/a.png')


@pytest.mark.parametrize('first_pixel, box', [(None, [0.0, 0.0, 99.0, 50.0]), (1, [0.0, 0.0, 99.0, 50.0])])
def test_a_box_that_starts_at_0(src, tmp_path, first_pixel, box):
    text(src / 'Annotations/a.xml', voc(thing('cat', 0, 0, 99, 50)))
    splits, notes = converted('voc', src, tmp_path / 'dst', first_pixel=first_pixel)
    assert boxes(splits['train'])['a.png'] == [('cat', box)]
    # the others are read as the first is; and from 1, a corner at 0 is outside and clipped
    assert boxes(splits['train'])['b.png'] == [
        ('cat', [1.0, 1.0, 99.0, 49.0] if first_pixel is None else [0, 0, 100, 50])
    ]
    assert len(notes) == 1 and ('from 0' in notes[0]) == (first_pixel is None)


def test_difficult_objects_and_attributes(src, tmp_path):
    difficult = '<difficult>1</difficult><truncated>1</truncated><pose>Left</pose>'
    text(src / 'Annotations/a.xml', voc(thing('dog', 3, 4, 10, 20, difficult), thing('cat', 1, 1, 9, 9)))
    splits, notes = converted('voc', src, tmp_path / 'dst')
    dog, cat = splits['train']['annotations'][:2]
    assert (dog['iscrowd'], cat['iscrowd']) == (1, 0) and dog['area'] == 8 * 17
    assert dog['attributes'] == dict(difficult=1, truncated=1, pose='Left')
    assert notes[0].startswith('1 difficult objects count neither')
    assert [category['name'] for category in splits['train']['categories']] == ['cat', 'dog']


@pytest.mark.parametrize(
    'lists, found',
    [
        (dict(train='a', val='b', trainval='a\nb', test='c'), dict(train=1, val=1, test=1)),
        (dict(trainval='a\nb', test='c'), dict(train=2, test=1)),
        (dict(train='a\nb', val='c', cat_train='a  1\nb -1'), dict(train=2, val=1)),
        (dict(default='a\nb'), dict(train=2)),
    ],
    ids=['all', 'trainval', 'of a class', 'default'],
)
def test_splits(src, tmp_path, lists, found):
    for name, content in lists.items():
        text(src / f'ImageSets/Main/{name}.txt', content + '\n')
    splits, notes = converted('voc', src, tmp_path / 'dst')
    assert {name: len(coco['images']) for name, coco in splits.items()} == found
    assert any('are in no list of ImageSets/Main' in note for note in notes) == (sum(found.values()) < 3)


def test_folders_as_splits_with_images_beside(tmp_path):
    for folder, stem in (('train', 'a'), ('valid', 'b')):
        image(tmp_path / f'src/{folder}/{stem}.png')
        text(tmp_path / f'src/{folder}/{stem}.xml', voc(thing('cat', 1, 1, 9, 9), filename=f'{stem}.png'))
    text(tmp_path / 'src/c.xml', voc())
    splits, notes = converted('voc', tmp_path / 'src', tmp_path / 'dst')
    assert notes[0].startswith('1 files outside the folders of the splits (train, valid)')
    assert boxes(splits['val']) == {'valid/b.png': [('cat', [0.0, 0.0, 9.0, 9.0])]}


def test_names_and_sizes_that_are_missing_or_differ(src, tmp_path):
    text(src / 'Annotations/a.xml', voc(thing('cat', 1, 1, 9, 9), size='', filename='other.jpg'))
    text(src / 'Annotations/renamed.xml', voc(filename='c.png'))
    (src / 'Annotations/c.xml').unlink()
    splits, notes = converted('voc', src, tmp_path / 'dst')
    assert splits['train']['images'][0] == dict(id=1, file_name='a.png', width=100, height=50)
    assert [entry['file_name'] for entry in splits['train']['images']] == ['a.png', 'b.png', 'c.png']
    assert 'record no image size' in notes[1] and 'name another image' in notes[0]


def test_rotated_boxes_of_rolabelimg(src, tmp_path):
    box = '<robndbox><cx>50</cx><cy>25</cy><w>20</w><h>10</h><angle>1.5707963</angle></robndbox>'
    text(src / 'Annotations/a.xml', voc(f'<object><name>cat</name>{box}</object>'))
    splits, notes = converted('voc', src, tmp_path / 'dst')
    assert boxes(splits['train'])['a.png'] == [('cat', [45.0, 15.0, 10.0, 20.0])]
    assert 'rotated rectangles became upright boxes' in notes[0]
    assert 'choose --rotated box or polygon' in errors('voc', src, tmp_path / 'none', rotated='refuse')[0]


@pytest.mark.parametrize(
    'content, message',
    [
        ('<annotation>', 'not XML, or truncated'),
        ('<!DOCTYPE a [<!ENTITY x "y">]><annotation>&x;</annotation>', 'declares XML entities'),
        (voc(thing('cat', 9, 1, 3, 9), thing('cat', 1, 1, 3, 3)), '1 of 2 objects are invalid, the first is number 1'),
        (voc(thing('cat', 'x', 1, 3, 9)), "xmin is 'x'; write a finite number"),
        (voc(thing('', 1, 1, 3, 9)), 'it has no name'),
        (voc('<object><name>cat</name></object>'), 'has no bndbox'),
        (voc(thing('cat', 1, 1, 300, 9)), 'is far outside a.png (100 x 50 px)'),
        (voc(size='<size><width>50</width><height>100</height></size>'), 'but its annotations are for 50 x 100 px'),
        (voc(size='<size><width>x</width><height>100</height></size>'), "size: width is 'x'"),
    ],
)
def test_files_that_cannot_be_converted(src, tmp_path, content, message):
    text(src / 'Annotations/a.xml', content)
    (error,) = errors('voc', src, tmp_path / 'dst')
    assert message in error and 'a.' in error and '\n' not in error
    splits, report = convert('voc', src, tmp_path / 'dst', skip_bad=True)
    assert len(splits['train']['images']) == 2 and report.errors == [error]


def test_files_that_are_missing(src, tmp_path):
    (src / 'JPEGImages/a.png').unlink()
    text(src / 'ImageSets/Main/train.txt', 'a\nb\nz\n')
    found = errors('voc', src, tmp_path / 'dst')
    assert 'no image a or a.png' in found[0] and 'z.xml: not found, but ImageSets/Main lists it' in found[1]
    with pytest.raises(MissingFileError, match='no XML file'):
        convert('voc', src / 'JPEGImages', tmp_path / 'dst')


def test_a_devkit(src, tmp_path):
    (tmp_path / 'kit').mkdir()
    src.rename(tmp_path / 'kit/VOC2007')
    assert converted('voc', tmp_path / 'kit', tmp_path / 'dst')[0].keys() == {'train'}
    (tmp_path / 'kit/VOC2012/Annotations').mkdir(parents=True)
    with pytest.raises(DataError, match='VOC2007, VOC2012; name one'):
        convert('voc', tmp_path / 'kit', tmp_path / 'dst2')
