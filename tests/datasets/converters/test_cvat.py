import sys
from pathlib import Path

import pytest
from pycocotools import mask as run_lengths

from mmfocal.datasets.converters import convert
from mmfocal.errors import MissingFileError

sys.path.insert(0, str(Path(__file__).parent))
from trees import boxes, converted, errors, image, text

LABELS = '<labels><label><name>dog</name></label><label><name>cat</name></label></labels>'
AGE = '<attribute name="age">3</attribute>'
BOX = f'<box label="cat" occluded="1" xtl="10" ytl="20" xbr="30.5" ybr="40" z_order="0">{AGE}</box>'


def images(*shapes, more='', meta=f'<task>{LABELS}</task>'):
    found = f'<image id="0" name="a.png" width="100" height="50" {more}>{"".join(shapes)}</image>'
    return f'<annotations><version>1.1</version><meta>{meta}</meta>{found}</annotations>'


@pytest.fixture
def src(tmp_path):
    image(tmp_path / 'src/images/a.png')
    return tmp_path / 'src'


def test_shapes(src, tmp_path):
    shapes = [
        BOX,
        '<polygon label="dog" points="10,10;30,10;20,30"/>',
        '<ellipse label="dog" cx="50" cy="25" rx="20" ry="10"/>',
        '<mask label="cat" rle="1, 2, 3" left="40" top="10" width="3" height="2"/>',
        '<polyline label="cat" points="1,1;2,2"/>',
        '<points label="cat" points="1,1"/>',
        '<tag label="cat"/>',
    ]
    text(src / 'annotations.xml', images(*shapes))
    splits, notes = converted('cvat', src, tmp_path / 'dst')
    box, polygon, ellipse, mask = splits['train']['annotations']
    assert box['bbox'] == [10.0, 20.0, 20.5, 20.0] and box['attributes'] == dict(age='3', occluded=1)
    assert polygon['segmentation'] == [[10.0, 10.0, 30.0, 10.0, 20.0, 30.0]]
    assert ellipse['bbox'] == [30.0, 15.0, 40.0, 20.0]
    decoded = run_lengths.decode(mask['segmentation'])  # rows 0 1 1 / 0 0 0
    assert decoded[10, 41:43].tolist() == [1, 1] and decoded.sum() == mask['area'] == 2
    assert [category['name'] for category in splits['train']['categories']] == ['dog', 'cat']
    for tag in ('polyline', 'points', 'tag'):
        assert any(note.startswith(f'1 shapes of type {tag} were left out') for note in notes)


@pytest.mark.parametrize('rotated, has_mask', [('box', False), ('polygon', True)])
def test_rotation(src, tmp_path, rotated, has_mask):
    text(src / 'annotations.xml', images('<box label="cat" xtl="40" ytl="20" xbr="60" ybr="30" rotation="90"/>'))
    splits, _ = converted('cvat', src, tmp_path / 'dst', rotated=rotated)
    (cat,) = splits['train']['annotations']
    assert cat['bbox'] == [45.0, 15.0, 10.0, 20.0] and ('segmentation' in cat) == has_mask
    assert cat['attributes'] == dict(rotation=90.0)
    assert 'a rotated rectangle of class' in errors('cvat', src, tmp_path / 'none', rotated='refuse')[0]


def test_groups(src, tmp_path):
    parts = [
        '<polygon label="cat" group_id="1" points="10,10;30,10;20,30"/>',
        BOX.replace('label', 'group_id="1" label'),
    ]
    text(src / 'annotations.xml', images(*parts, '<box label="cat" group_id="0" xtl="1" ytl="1" xbr="9" ybr="9"/>'))
    splits, notes = converted('cvat', src, tmp_path / 'dst')
    joined, single = splits['train']['annotations']
    assert (
        len(joined['segmentation']) == 2 and 'segmentation' not in single and notes[0].startswith('1 parts were joined')
    )


def test_subsets_of_a_project(src, tmp_path):
    image(src / 'images/Validation/b.png')
    other = '<image id="1" name="b.png" task_id="7" subset="Validation" width="100" height="50"></image>'
    tasks = (
        '<tasks><task><id>6</id><subset>Train</subset></task><task><id>7</id><subset>Validation</subset></task></tasks>'
    )
    content = images(BOX, more='task_id="6"', meta=f'<project>{LABELS}{tasks}</project>')
    text(src / 'annotations.xml', content.replace('</annotations>', f'{other}</annotations>'))
    splits, _ = converted('cvat', src, tmp_path / 'dst')
    assert boxes(splits['val']) == {'Validation/b.png': []} and len(boxes(splits['train'])['a.png']) == 1


def video(*shapes, size=3):
    meta = (
        f'<task><size>{size}</size>{LABELS}<original_size><width>100</width><height>50</height></original_size></task>'
    )
    track = f'<track id="4" label="cat">{"".join(shapes)}</track>'
    return f'<annotations><version>1.1</version><meta>{meta}</meta>{track}</annotations>'


def at(frame, outside=0):
    return f'<box frame="{frame}" outside="{outside}" keyframe="1" xtl="1" ytl="2" xbr="11" ybr="22"/>'


def test_a_video(src, tmp_path):
    (src / 'images/a.png').unlink()
    for frame in range(3):
        image(src / f'images/frame_{frame:06d}.PNG')
    text(src / 'annotations.xml', video(at(0), at(1, outside=1)))
    splits, notes = converted('cvat', src, tmp_path / 'dst')
    found = boxes(splits['train'])
    assert list(map(len, found.values())) == [1, 0, 0] and list(found)[0] == 'frame_000000.PNG'
    assert splits['train']['annotations'][0]['attributes'] == dict(track_id=4)
    assert notes[0].startswith('1 shapes of tracks are outside their frame')


def test_a_video_without_its_frames(src, tmp_path):
    text(src / 'annotations.xml', video(at(0), size=1))
    (error,) = errors('cvat', src, tmp_path / 'dst')
    assert 'image frame_000000: not found; extract the frames' in error


@pytest.mark.parametrize(
    'content, message',
    [
        ('<dataset/>', 'not of CVAT, since its root is <dataset>'),
        ('<!DOCTYPE a [<!ENTITY x "y">]><annotations>&x;</annotations>', 'declares XML entities'),
        (images('<box label="cat" xtl="9" ytl="1" xbr="1" ybr="2"/>'), '1 of 1 shapes are invalid'),
        (images('<box xtl="1" ytl="1" xbr="9" ybr="9"/>'), 'a box without a label'),
        (images('<polygon label="cat" points="1,1;2,2"/>'), 'a polygon of 4 coordinates'),
        (images('<mask label="cat" rle="1, 2" left="0" top="0" width="2" height="2"/>'), 'run lengths do not fit'),
        (images('<mask label="cat" rle="4" left="99" top="0" width="2" height="2"/>'), 'run lengths do not fit'),
        (images().replace('a.png', 'b.png'), 'image b.png: not found; export with images'),
        (images().replace('"100"', '"10"'), 'but its annotations are for 10 x 50 px'),
        (images().replace('"100"', '"x"'), "a side is 'x'"),
    ],
)
def test_files_that_cannot_be_converted(src, tmp_path, content, message):
    text(src / 'annotations.xml', content)
    (error,) = errors('cvat', src, tmp_path / 'dst')
    assert message in error and 'annotations.xml' in error or 'a.png' in error


def test_several_files(src, tmp_path):
    text(src / 'annotations.xml', images(BOX))
    text(src / 'more.xml', images(BOX))
    assert 'image a.png is also in' in errors('cvat', src, tmp_path / 'dst')[0]
    with pytest.raises(MissingFileError, match='unpack an export'):
        convert('cvat', src / 'images', tmp_path / 'dst')
