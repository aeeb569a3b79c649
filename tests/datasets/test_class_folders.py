"""Class folders and zip files with lists: each issue is one message, at the start of training and in check-dataset."""

import multiprocessing
import shutil
import zipfile

import cv2
import numpy as np
import pytest
from mmengine.registry import init_default_scope
from torch.utils.data import DataLoader

from mmfocal.datasets.classification import CheckedCustomDataset, CheckedImageNet
from mmfocal.datasets.zip_backend import list_members, parse_uri, read_member
from mmfocal.errors import ConfigError, DataError, MissingFileError

CLASSES = ('ant', 'bee', 'cat')
PIPELINE = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]


@pytest.fixture(autouse=True)
def mmpretrain_scope():
    init_default_scope('mmpretrain')  # another test may have left another


def write_image(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((8, 10, 3), value, np.uint8))


@pytest.fixture
def root(tmp_path):
    """Three classes with two training images and one for validation each."""
    for label, name in enumerate(CLASSES):
        for number in range(2):
            write_image(tmp_path / f'train/{name}/{name}{number}.png', 40 * label + number)
        write_image(tmp_path / f'val/{name}/val_{name}.png', 40 * label + 9)
    return tmp_path


@pytest.fixture
def zipped(root):
    """The same as zip files with lists: the released loader's layout, of which only validation is flat."""
    for split in ('train', 'val'):
        lines = []
        with zipfile.ZipFile(root / f'{split}.zip', 'w', zipfile.ZIP_DEFLATED if split == 'val' else 0) as file:
            for path in sorted((root / split).rglob('*.png')):
                name = path.name if split == 'val' else f'{path.parent.name}/{path.name}'
                file.write(path, name)
                lines.append(f'{name}\t{CLASSES.index(path.parent.name)}\n')
        (root / f'{split}_map.txt').write_text(''.join(lines))
        shutil.rmtree(root / split)
    return root


def load(root, split='train', **options):
    options.setdefault('metainfo', dict(classes=CLASSES))
    return CheckedCustomDataset(
        data_root=f'{root}/', data_prefix=split, pipeline=PIPELINE, test_mode=split != 'train', **options
    )


def issues_of(root, split='train', **options):
    """Returns levels and messages of a split's issues, those of its images included."""
    issues, checks = load(root, split, lazy_init=True, **options).find_issues()
    issues += [issue for check in checks for issue in check()]
    assert all('\n' not in issue.message and ': ' in issue.message for issue in issues)
    return [(issue.level, issue.message.replace(f'{root}/', '')) for issue in issues]


def errors_of(root, split='train', **options):
    """Returns the messages of errors, the first of which loading must raise too."""
    errors = [message for level, message in issues_of(root, split, **options) if level == 'error']
    with pytest.raises((ConfigError, DataError, MissingFileError)) as raised:
        load(root, split, **options)
    assert str(raised.value).replace(f'{root}/', '') == errors[0]
    return errors


def labels(dataset):
    return [(dataset.get_data_info(i)['img_path'].rpartition('/')[2], dataset.get_data_info(i)['gt_label'])
            for i in range(len(dataset))]  # fmt: skip


def test_class_folders_are_numbered_by_name(root):
    dataset = load(root, metainfo=None)
    assert dataset.metainfo['classes'] == CLASSES
    assert labels(dataset) == [(f'{name}{i}.png', label) for label, name in enumerate(CLASSES) for i in range(2)]
    sample = dataset[3]
    assert sample['inputs'].shape == (3, 8, 10) and int(sample['inputs'][0, 0, 0]) == 41
    assert sample['data_samples'].gt_label.tolist() == [1]
    assert issues_of(root) == issues_of(root, 'val') == []


def test_labels_of_a_split_that_lacks_classes_are_not_shifted(root):
    shutil.rmtree(root / 'val/ant')
    shutil.rmtree(root / 'val/bee')
    assert labels(load(root, 'val', metainfo=None)) == [('val_cat.png', 2)]
    assert issues_of(root, 'val') == [
        ('warning', "val: no images of 2 of 3 classes ('ant', 'bee'); their accuracy counts for nothing")
    ]


def test_metainfo_may_order_or_rename_the_folders(root):
    assert dict(labels(load(root, metainfo=dict(classes=('cat', 'ant', 'bee')))))['bee0.png'] == 2
    renamed = load(root, metainfo=dict(classes=('Ant, an insect', 'Bee', 'Cat')))
    assert dict(labels(renamed))['bee0.png'] == 1 and renamed.metainfo['classes'][1] == 'Bee'


def test_wrong_class_folders(root):
    (root / 'train/dog').mkdir()
    assert errors_of(root) == [
        'train/dog: this folder (1 of 4) is no class of metainfo.classes; remove it, or add the class'
    ]
    message = (
        'train: 4 class folders, but 2 classes in metainfo.classes; complete the folders, or correct metainfo.classes'
    )
    assert errors_of(root, metainfo=dict(classes=('x', 'y'))) == [message]
    assert errors_of(root, metainfo=dict(classes=(*CLASSES, 'dog', 'eel'))) == [
        "train: no class folders 'eel'; add them, or correct metainfo.classes"
    ]
    with pytest.raises(DataError, match='train: 4 class folders, but 1000 classes in metainfo.classes'):
        CheckedImageNet(data_root=str(root), split='train')


def test_class_of_validation_that_training_lacks(root):
    write_image(root / 'val/dog/1.png', 7)
    write_image(root / 'val/eel/1.png', 7)
    assert errors_of(root, 'val') == [
        'val/dog: class folder that train lacks (2 of 5 do); add its training images, or remove it'
    ]


def test_empty_class_folders_hidden_files_and_other_suffixes(root):
    for path in (root / 'train/bee').iterdir():
        path.unlink()
    write_image(root / 'train/ant/._ant0.png', 0)
    write_image(root / 'train/.ipynb_checkpoints/ant0.png', 0)
    write_image(root / 'train/__MACOSX/ant/ant0.png', 0)
    write_image(root / 'train/ant/ant9.webp', 0)
    write_image(root / 'train/stray.png', 0)
    (root / 'train/ant/Thumbs.db').write_bytes(b'x')
    assert issues_of(root) == [
        ('warning', 'train/bee: class folder without images; add them'),
        ('warning', 'train/stray.png: image outside the class folders (1 of them), not used; move it into one'),
        ('warning', 'train/ant/ant9.webp: image with another suffix (1 of them: .webp 1), not used; rename it, or set '
                    'extensions'),
        ('note', 'train/ant/._ant0.png: hidden file (1 of them), not used'),
    ]  # fmt: skip
    assert len(load(root)) == 4


def test_a_flat_folder(root):
    """What the archive of ILSVRC 2012's validation images extracts to."""
    for path in list((root / 'val').rglob('*.png')):
        path.rename(root / 'val' / path.name)
        path.parent.rmdir()
    assert errors_of(root, 'val') == [
        'val: 3 images and no class folders; move them into one folder per class, or name a list of images and labels '
        'as ann_file'
    ]
    (root / 'val.txt').write_text(''.join(f'val_{name}.png {label}\n' for label, name in enumerate(CLASSES)))
    assert labels(load(root, 'val', ann_file='val.txt'))[2] == ('val_cat.png', 2)


def test_folders_without_images(root):
    for path in (root / 'val').rglob('*.png'):
        path.unlink()
    assert errors_of(root, 'val') == ['val: 3 class folders without images; extract the images again']
    shutil.rmtree(root / 'val')
    assert errors_of(root, 'val') == ['data_root=: val not found; correct data_root or data_prefix']
    (root / 'val').mkdir()
    assert errors_of(root, 'val') == ['val: neither class folders nor images; extract the images again']


def test_the_root_is_named_as_its_environment_variable(tmp_path, monkeypatch):
    monkeypatch.setenv('IMAGENET_ROOT', str(tmp_path / 'nowhere'))
    with pytest.raises(MissingFileError, match='^IMAGENET_ROOT=.*nowhere: folder not found; set IMAGENET_ROOT$'):
        CheckedImageNet(data_root=str(tmp_path / 'nowhere'), split='val')


def test_the_same_image_twice(root):
    shutil.copy(root / 'train/ant/ant0.png', root / 'train/bee/ant0.png')
    write_image(root / 'train/cat/ant1.png', 99)  # of the same name only
    shutil.copy(root / 'train/cat/cat0.png', root / 'val/cat/cat0.png')
    assert issues_of(root) == [
        ('warning', 'train/bee/ant0.png: same image as ant/ant0.png (1 such), with another label; remove one')
    ]
    assert issues_of(root, 'val') == [
        ('warning', f'val/cat/cat0.png: also an image of {root}/train (1 of 4 are), so accuracy is too high; remove it '
                    'from one of them'.replace(f'{root}/', ''))
    ]  # fmt: skip


def damage(path, how):
    content = path.read_bytes()
    path.write_bytes(dict(empty=b'', text=b'not an image', truncated=content[:-30])[how])


@pytest.mark.parametrize('how, found, loaded', [
    ('empty', 'has no bytes; fetch it again', 'not an image, or damaged'),
    ('text', 'is not an image; fetch it again', 'not an image, or damaged'),
    ('truncated', 'is truncated or damaged', None),  # which OpenCV fills up
])  # fmt: skip
def test_damaged_images(root, how, found, loaded):
    damage(root / 'train/bee/bee1.png', how)
    ((level, message),) = issues_of(root)
    assert level == 'error' and message.startswith(f'train/bee/bee1.png: {found}')
    if loaded:
        with pytest.raises(DataError, match=f'train/bee/bee1.png: {loaded}'):
            load(root)[3]
        sample = load(root, bad_data='skip')[3]
        assert 'bee1.png' in sample['data_samples'].skipped[0]
        shutil.copy(root / 'train/bee/bee1.png', root / 'val/bee/val_bee.png')
        with pytest.raises(DataError, match='val_bee.png'):
            load(root, 'val', bad_data='skip')[1]


def test_zip_files_take_the_place_of_folders(root, zipped):
    train, val = load(root), load(root, 'val')
    assert [(name.partition('#')[0], label) for name, label in labels(train)] == [
        (f'{name}{i}.png', label) for label, name in enumerate(CLASSES) for i in range(2)
    ]
    assert int(train[3]['inputs'][0, 0, 0]) == 41 and int(val[2]['inputs'][0, 0, 0]) == 89
    assert issues_of(root) == issues_of(root, 'val') == []
    (root / 'val_map.txt').unlink()
    assert errors_of(root, 'val') == [
        'val.zip: its labels are missing; add val_map.txt, with a path and a label per line'
    ]
    with pytest.raises(ConfigError, match='train_map.txt: has no names of classes; write metainfo='):
        load(root, metainfo=None)


@pytest.mark.parametrize('method', ['fork', pytest.param('spawn', marks=pytest.mark.slow)])
def test_zip_files_are_read_by_several_workers(root, zipped, method):
    dataset = load(root)
    expected = [dataset[i]['inputs'].sum().item() for i in range(6)]  # the file is open before workers start
    loader = DataLoader(
        dataset, 1, num_workers=2, collate_fn=first_of, multiprocessing_context=multiprocessing.get_context(method)
    )
    for _ in range(3 if method == 'fork' else 1):
        assert [sample['inputs'].sum().item() for sample in loader] == expected


def first_of(batch):
    return batch[0]


def test_wrong_lines_of_a_list(root, zipped):
    lines = (root / 'train_map.txt').read_text().splitlines()
    lines[0] = lines[0].replace('\t0', '\t3')
    lines[1] = lines[1].replace('\t', '_')
    lines += [lines[2], lines[3].replace('\t1', '\t2'), 'ant/ant7.png\t0', '', 'ant/ant8.png\t0']
    (root / 'train_map.txt').write_text('\n'.join(lines))
    found = issues_of(root)
    assert [f'{level}: {message}' for level, message in found] == [
        "error: train_map.txt: line 2, 'ant/ant1.png_0', is no path and label, separated by a tab; correct it",
        'error: train_map.txt: line 8 labels bee/bee1.png 2, an earlier line 1; remove one',
        'error: train_map.txt: line 1 labels ant/ant0.png 3 (1 such), but labels are 0 to 2; '
        'correct it, or metainfo.classes',
        'warning: train_map.txt: line 7 names an image again (2 such), used once; remove it',
        'error: train_map.txt: ant/ant7.png is not in train.zip (2 of 6 images are not); '
        'complete it, or correct the list',
        "warning: train_map.txt: no images of 1 of 3 classes ('ant'); add them",
        'warning: train.zip: ant/ant0.png is not in train_map.txt (2 images are not), not used; list it',
    ]
    errors_of(root)
    assert [label for _, label in labels(load(root, bad_data='skip'))] == [1, 1, 2, 2]
    (root / 'train_map.txt').write_text('ant/ant0.png\t1\nant/ant1.png\t2\nbee/bee0.png\t3\n')
    assert errors_of(root)[0].endswith('but labels are 0 to 2 (they count from 0); correct it, or metainfo.classes')
    (root / 'train_map.txt').write_text('\n')
    assert errors_of(root) == ['train_map.txt: lists no image; write a path and a label per line']


def test_damaged_zip_files(root, zipped):
    content = (root / 'train.zip').read_bytes()
    member = list_members(str(root / 'train.zip'))['bee/bee1.png']
    assert parse_uri(member.uri) == member
    broken = bytearray(content)
    broken[content.index(b'IDAT', member.offset) + 6] ^= 255
    (root / 'train.zip').write_bytes(broken)
    assert issues_of(root) == [('error', 'train.zip@bee/bee1.png: damaged; fetch the zip file again')]
    with pytest.raises(DataError, match='bee1.png: damaged'):
        load(root)[3]
    assert 'bee1.png' in load(root, bad_data='skip')[3]['data_samples'].skipped[0]
    (root / 'train.zip').write_bytes(content[:-40])
    assert errors_of(root)[0].startswith('train.zip: not a zip file, or cut off (')
    with zipfile.ZipFile(root / 'train.zip', 'w', zipfile.ZIP_LZMA) as file:
        file.writestr('ant/ant0.png', b'x')
    assert errors_of(root) == [
        'train.zip@ant/ant0.png: compressed by method 14; write the zip file again, stored or deflated'
    ]


def test_a_member_that_is_no_image(root, zipped):
    with zipfile.ZipFile(root / 'train.zip', 'a') as file:
        file.writestr('cat/text.png', b'no image')
    with open(root / 'train_map.txt', 'a') as file:
        file.write('cat/text.png\t2\n')
    assert issues_of(root) == [('error', 'train.zip@cat/text.png: is not an image; fetch it again')]
    with pytest.raises(DataError, match='train.zip@cat/text.png: not an image, or damaged'):
        load(root)[6]
    assert read_member(list_members(str(root / 'train.zip'))['cat/text.png']) == b'no image'
