"""Each issue of COCO-format files is one message that names the file and what to do."""

import json
import os

import pytest

from mmfocal.datasets.validation.annotations import check_images_exist, read_annotations, validate_annotations
from mmfocal.datasets.validation.categories import match_categories
from mmfocal.datasets.validation.files import check_exists
from mmfocal.datasets.validation.issues import raise_first_error
from mmfocal.errors import ConfigError, DataError, MissingFileError


def a_sound_file():
    """A parsed file of two images, three boxes and three categories."""
    return dict(
        images=[dict(id=i, file_name=f'{i}.jpg', width=64, height=48) for i in (1, 2)],
        categories=[dict(id=i, name=name) for i, name in ((3, 'disc'), (5, 'box'), (9, 'star'))],
        annotations=[
            dict(id=10, image_id=1, category_id=3, bbox=[4, 4, 20, 10.5], area=210.0),
            dict(id=11, image_id=1, category_id=9, bbox=[0.5, 1, 8, 8], area=64, iscrowd=1),
            dict(id=12, image_id=2, category_id=5, bbox=[30, 20, 10, 12], area=120),
        ],
    )


def is_one_line(error):
    text = str(error.value)
    return '\n' not in text and text.count('; ') == 1


def check_annotations(coco, name, test_mode=False):
    issues, sound = validate_annotations(coco, name, test_mode=test_mode)
    raise_first_error(issues)
    return sound


def check_classes(classes, coco, name, **options):
    """Raises what does not match, or returns the matched categories' ids."""
    issues, categories = match_categories(coco['categories'], classes, name, **options)
    raise_first_error(issues)
    return [category['id'] for category in categories[: len(classes)]]


# Where the data is


def check_file(path, root=''):
    check_exists(path, root, 'ann_file')


def test_a_missing_root_names_coco_root(tmp_path, monkeypatch):
    root = f'{tmp_path}/coco/'
    monkeypatch.setenv('COCO_ROOT', root)
    with pytest.raises(MissingFileError) as error:
        check_file(root + 'annotations/a.json', root)
    assert str(error.value) == f'COCO_ROOT={root}: folder not found; set COCO_ROOT'


def test_the_default_root_is_coco_root_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('COCO_ROOT', raising=False)
    with pytest.raises(MissingFileError, match='^COCO_ROOT=data/coco/: folder not found; set COCO_ROOT'):
        check_file('data/coco/annotations/a.json', 'data/coco/')


def test_another_root_names_data_root(tmp_path):
    with pytest.raises(MissingFileError, match='^data_root=.*/mine: folder not found; correct data_root$'):
        check_file(f'{tmp_path}/mine/a.json', f'{tmp_path}/mine')


def test_a_missing_annotation_file_is_named_relative_to_its_root(tmp_path, monkeypatch):
    root = str(tmp_path)  # without a slash at its end: the message must name the file without one at its start
    monkeypatch.setenv('COCO_ROOT', root + '/')
    with pytest.raises(MissingFileError) as error:
        check_file(f'{root}/annotations/a.json', root)
    assert str(error.value) == f'COCO_ROOT={root}: annotations/a.json not found; set COCO_ROOT or ann_file'


def test_a_missing_annotation_file_outside_the_root_is_named_in_full(tmp_path):
    with pytest.raises(MissingFileError, match=f'^{tmp_path}/a.json: not found; correct ann_file'):
        check_file(f'{tmp_path}/a.json', 'data/coco/')


def test_an_unused_root_need_not_exist(tmp_path):
    (tmp_path / 'a.json').write_text('{}')
    check_file(f'{tmp_path}/a.json', 'data/coco/')


# What the annotation file holds


def test_a_truncated_file_is_named(tmp_path):
    path = tmp_path / 'a.json'
    path.write_text(json.dumps(a_sound_file())[:-20])
    with pytest.raises(DataError, match='^my.json: not JSON, or truncated .*; fetch') as error:
        read_annotations(path, 'my.json')
    assert is_one_line(error)


@pytest.mark.parametrize('content', [b'', b'\x89PNG\r\n\x1a\n\x00\xff', b'images: []'])
def test_what_is_not_json_is_named(tmp_path, content):
    path = tmp_path / 'a.json'
    path.write_bytes(content)
    with pytest.raises(DataError, match='^my.json: not JSON'):
        read_annotations(path, 'my.json')


def test_a_sound_file_is_read_and_passes(tmp_path):
    path = tmp_path / 'a.json'
    path.write_text(json.dumps(a_sound_file()))
    coco = read_annotations(path, 'my.json')
    assert coco == a_sound_file()
    sound = check_annotations(coco, 'my.json')
    assert coco == a_sound_file(), 'not changed in place'
    for annotation in coco['annotations']:
        annotation.setdefault('iscrowd', 0)
    assert sound == coco


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig'])
def test_a_byte_order_mark_is_accepted(tmp_path, encoding):
    path = tmp_path / 'a.json'
    path.write_text(json.dumps(a_sound_file()), encoding=encoding)
    assert read_annotations(path, 'my.json') == a_sound_file()


@pytest.mark.parametrize('encoding', ['utf-16', 'utf-16-le', 'utf-16-be'])
def test_utf_16_is_named(tmp_path, encoding):
    path = tmp_path / 'a.json'
    path.write_text(json.dumps(a_sound_file()), encoding=encoding)
    with pytest.raises(DataError, match='^my.json: is encoded in UTF-16; save it as UTF-8$'):
        read_annotations(path, 'my.json')


def test_other_encodings_are_named(tmp_path):
    path = tmp_path / 'a.json'
    path.write_bytes('{"info": "größe"}'.encode('latin-1'))
    with pytest.raises(DataError, match='^my.json: not JSON in UTF-8 .*; save or export it in that encoding$'):
        read_annotations(path, 'my.json')


@pytest.mark.parametrize('text', ['1' * 5000, '[' * 100000, 'version https://git-lfs.github.com/spec/v1\noid'])
def test_what_python_cannot_parse_is_named(tmp_path, text):
    path = tmp_path / 'a.json'
    path.write_text(text)
    with pytest.raises(DataError, match='^my.json: not JSON'):
        read_annotations(path, 'my.json')


def test_a_list_is_not_coco():
    with pytest.raises(DataError, match='^my.json: holds a list'):
        check_annotations([a_sound_file()], 'my.json')


@pytest.mark.parametrize('key', ['images', 'annotations', 'categories'])
@pytest.mark.parametrize('value', [None, {}])
def test_each_list_must_be_there(key, value):
    coco = a_sound_file()
    coco[key] = value
    with pytest.raises(DataError, match=f"^my.json: has no list of '{key}'"):
        check_annotations(coco, 'my.json', test_mode=True)
    del coco[key]
    with pytest.raises(DataError, match=f"^my.json: has no list of '{key}'"):
        check_annotations(coco, 'my.json')


def test_only_a_test_file_may_have_no_annotations():
    coco = a_sound_file()
    del coco['annotations']
    check_annotations(coco, 'my.json', test_mode=True)
    assert 'annotations' not in coco


def change(key, index, **fields):
    """The file with these fields of one entry changed, or taken out where the value is a dash."""
    coco = a_sound_file()
    for field, value in fields.items():
        if value == '-':
            del coco[key][index][field]
        else:
            coco[key][index][field] = value
    return coco


@pytest.mark.parametrize(
    'coco, sentence',
    [
        (change('annotations', 2, category_id=4), r"annotation 12 has category_id 4, .* file's categories"),
        (
            change('annotations', 2, category_id='5'),
            r"annotation 12 has category_id '5', a text, but the ids of the file's categories are numbers",
        ),
        (change('annotations', 1, image_id=7), r"annotation 11 has image_id 7, .* file's images"),
        (change('annotations', 1, id=10), r'id 10 occurs twice in annotations'),
        (change('images', 1, id=1), r'id 1 occurs twice in images'),
        (change('categories', 1, id=3), r'id 3 occurs twice in categories'),
        (change('annotations', 0, image_id='-'), r"annotations\[0\] \(id 10\) lacks 'image_id'"),
        (change('images', 1, height='-', width='-'), r"images\[1\] \(id 2\) lacks 'height', 'width'"),
        (change('categories', 0, name='-'), r"categories\[0\] \(id 3\) lacks 'name'"),
        (change('images', 0, file_name=12), r'image 1 has file_name 12'),
        (change('images', 0, file_name='a\nb.jpg'), r"image 1 has a line break in file_name 'a\\nb.jpg'"),
        (change('images', 0, file_name='https://x.org/1.jpg'), r"image 1 has the URL 'https://x.org/1.jpg'"),
        (change('images', 0, width=None), r'image 1 has width None and height 48'),
        (change('images', 0, height=0), r'image 1 has width 64 and height 0'),
        (change('images', 0, height=float('nan')), r'image 1 has width 64 and height nan'),
        ({**a_sound_file(), 'images': []}, r'its list of images is empty'),
        ({**a_sound_file(), 'annotations': [None]}, r'annotations\[0\] is None'),
    ],
)
def test_a_wrong_entry_is_named(coco, sentence):
    with pytest.raises(DataError, match=f'^my.json: {sentence}.*; ') as error:
        check_annotations(coco, 'my.json', test_mode=True)
    assert is_one_line(error)


@pytest.mark.parametrize(
    'bbox',
    [
        [1, 2, 3, float('nan')],
        [float('inf'), 2, 3, 4],
        [float('inf'), -float('inf'), 3, 4],
        [1, 2, 3, 10**400],
        ['1', '2', '3', '4'],
        [1, 2, 3, None],
        [1, 2, 3],
        [1, 2, 3, 4, 5],
        [],
        [[1, 2, 3, 4]],
        'xywh',
        None,
        7,
        dict(x=1, y=2, w=3, h=4),
    ],
)
def test_a_box_is_four_finite_numbers(bbox):
    with pytest.raises(DataError, match=r'^my.json: annotation 12 has bbox .* \(image 2\); ') as error:
        check_annotations(change('annotations', 2, bbox=bbox), 'my.json')
    assert is_one_line(error)


@pytest.mark.parametrize('area', [None, '120', float('nan')])
def test_an_area_is_a_finite_number(area):
    with pytest.raises(DataError, match=f'annotation 12 has bbox .* and area {area!r} '):
        check_annotations(change('annotations', 2, area=area), 'my.json')


def test_a_missing_box_is_an_error_unless_it_is_ignored():
    with pytest.raises(DataError, match='annotation 12 has bbox None'):
        check_annotations(change('annotations', 2, bbox='-'), 'my.json')
    check_annotations(change('annotations', 2, bbox='-', ignore=1), 'my.json')


# Class names


@pytest.mark.parametrize(
    'classes, ids',
    [
        (('disc', 'box', 'star'), [3, 5, 9]),
        (['disc', 'star'], [3, 9]),
        (('box',), [5]),
        (('star', 'disc'), [9, 3]),
        (('star', 'box', 'disc'), [9, 5, 3]),
    ],
)
def test_classes_are_matched_by_name(classes, ids):
    assert check_classes(classes, a_sound_file(), 'my.json') == ids


def test_names_that_the_file_lacks_are_listed_with_those_it_has():
    classes = ('person', 'disc', 'a', 'b', 'c', 'd', 'e')
    with pytest.raises(ConfigError) as error:
        check_classes(classes, a_sound_file(), 'my.json')
    assert str(error.value) == (
        "metainfo.classes: 'person', 'a', 'b', 'c', 'd' and 1 more not in the categories of my.json, which has "
        "'disc', 'box', 'star'; set metainfo=dict(classes=(...)) to names of that file"
    )


def test_a_name_in_another_case_is_named():
    with pytest.raises(ConfigError, match=r"'Star' not in .* \('Star' is written 'star' there\); set"):
        check_classes(('disc', 'box', 'Star'), a_sound_file(), 'my.json')


@pytest.mark.parametrize('test_mode', [False, True])
def test_a_class_that_the_file_lacks_has_an_unused_id(test_mode):
    classes = ('disc', 'cone', 'box', 'star', 'ring')
    issues, categories = match_categories(a_sound_file()['categories'], classes, 'my.json', test_mode)
    assert [category['id'] for category in categories] == [3, 1, 5, 9, 2]
    assert [(issue.level, issue.kind) for issue in issues] == [
        ('note' if test_mode else 'warning', 'class without category')
    ]
    assert issues[0].message.startswith("my.json: has no category for 'cone', 'ring' of metainfo.classes")


def test_default_classes_that_the_file_lacks_are_an_error():
    with pytest.raises(ConfigError, match='set metainfo'):
        check_classes(('disc', 'box', 'star', 'ring'), a_sound_file(), 'my.json', is_default=True)


def test_a_test_file_may_have_categories_that_are_not_used():
    assert check_classes(('disc', 'ring'), a_sound_file(), 'my.json', test_mode=True) == [3, 1]
    with pytest.raises(ConfigError, match="'ring' not in the categories"):
        check_classes(('disc', 'ring'), a_sound_file(), 'my.json')


def test_one_name_without_its_comma_is_not_a_list():
    with pytest.raises(ConfigError, match=r"^metainfo.classes='disc' is not a list .* \('disc', \)$"):
        check_classes('disc', a_sound_file(), 'my.json')


def test_names_must_be_unique():
    with pytest.raises(ConfigError, match="^metainfo.classes: has twice the name 'star'; write each class once$"):
        check_classes(('disc', 'star', 'star'), a_sound_file(), 'my.json')
    coco = change('categories', 2, name='disc')
    with pytest.raises(ConfigError, match="^my.json: has two categories with the name 'disc'; merge or rename them$"):
        check_classes(('disc', 'box'), coco, 'my.json')
    with pytest.raises(DataError, match='^my.json: category 9 has the name None; write a text'):
        check_classes(('disc', 'box'), change('categories', 2, name=None), 'my.json')
    with pytest.raises(DataError, match='^my.json: its list of categories is empty; '):
        check_classes(('disc',), {**a_sound_file(), 'categories': []}, 'my.json')


# Images


def test_missing_images_are_counted_and_the_first_is_named(tmp_path):
    paths = [str(tmp_path / folder / f'{i}.jpg') for folder in ('one', 'two/deep') for i in range(4)]
    for path in paths[:3] + paths[5:]:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, 'w').close()
    check_images_exist(paths[:3] + paths[5:], 'my.json')
    with pytest.raises(MissingFileError, match=r'/one/3.jpg: image not found \(2 of 8 used from') as error:
        check_images_exist(paths, 'my.json')
    assert is_one_line(error)


def test_images_of_a_missing_folder_and_of_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    open('a.jpg', 'w').close()
    check_images_exist(['a.jpg'], 'my.json')
    with pytest.raises(MissingFileError, match=r'^none/a.jpg: image not found \(2 of 3 used'):
        check_images_exist(['a.jpg', 'none/a.jpg', 'a.jpg/b.jpg'], 'my.json')


def test_folders_are_listed_once_and_images_not_asked_for_one_by_one(tmp_path, monkeypatch):
    paths = [str(tmp_path / f'{i}.jpg') for i in range(50)]
    for path in paths:
        open(path, 'w').close()
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, 'scandir', lambda folder: listed.append(folder) or scandir(folder))
    monkeypatch.setattr(os.path, 'exists', lambda path: pytest.fail(f'asked for {path}'))
    check_images_exist(paths, 'my.json')
    assert listed == [str(tmp_path)]


def test_links_to_nowhere_are_missing(tmp_path):
    (tmp_path / 'there.jpg').touch()
    (tmp_path / 'good.jpg').symlink_to(tmp_path / 'there.jpg')
    (tmp_path / 'bad.jpg').symlink_to(tmp_path / 'gone.jpg')
    check_images_exist([str(tmp_path / 'good.jpg')], 'my.json')
    with pytest.raises(MissingFileError, match=r'/bad.jpg: image not found \(1 of 2 used'):
        check_images_exist([str(tmp_path / 'good.jpg'), str(tmp_path / 'bad.jpg')], 'my.json')


def test_backslashes_are_named(tmp_path):
    with pytest.raises(MissingFileError, match='write / for the backslashes in file_name$'):
        check_images_exist([f'{tmp_path}/images\\1.jpg'], 'my.json')
