"""What the label maps of a split lack together is reported before training."""

import cv2
import numpy as np
import pytest
from PIL import Image

from mmfocal.datasets.label_maps import LabelMapDataset
from mmfocal.datasets.validation.issues import errors_of
from mmfocal.datasets.validation.label_statistics import find_split_issues
from mmfocal.errors import DataError

CLASSES = ('background', 'disc', 'box')


@pytest.fixture
def find(tmp_path):
    """Writes label maps and returns the issues of the split as (level, kind, message)."""

    def find(*maps, suffix='png', classes=CLASSES, **options):
        paths = [str(tmp_path / f'{index}.{suffix}') for index in range(len(maps))]
        for path, values in zip(paths, maps):
            image = Image.fromarray(np.resize(np.array(values), (8, 8)).astype(np.uint8))
            image.save(path, **(dict(quality=100) if suffix == 'jpg' else {}))
        return [
            issue[0:1] + (issue.level, issue.message) for issue in find_split_issues(paths, classes, 'masks', **options)
        ]

    return find


def test_sound_label_maps(find):
    assert find([0, 1, 2, 255], [0, 0]) == find([0, 1], classes=CLASSES[:2]) == []
    assert find([0, 1, 2, 3, 255], first=1, classes=('sky', 'disc', 'box')) == []
    assert find([1, 1], classes=('road',), first=1) == [], 'one class alone is all there can be'


@pytest.mark.parametrize('test_mode, level', [(False, 'error'), (True, 'warning')])
def test_one_class_only(find, test_mode, level):
    ((kind, found, message),) = find([0, 0], [0, 0], test_mode=test_mode)
    assert (kind, found) == ('one class only', level)
    assert message.startswith("masks: all pixels of 2 label maps are 'background' or ignored, so ")
    ((kind, found, message),) = find([255, 255], test_mode=test_mode)
    assert (kind, found) == ('all pixels ignored', level)


def test_0_and_255_for_two_classes(find):
    ((kind, level, message),) = find([0, 255], classes=('background', 'road'))
    assert (kind, level) == ('one class only', 'error')
    assert message.endswith("; if 255 is meant to be 'road', write 1 for it")


def test_classes_without_pixels(find):
    ((kind, level, message),) = find([0, 1], [1])
    assert (kind, level) == ('class without pixels', 'warning')
    assert message == "masks: no pixel is 'box' in all label maps (1 of 3 classes)"


def test_a_named_background_that_is_ignored(find):
    ((kind, level, message),) = [
        one for one in find([0, 1, 2], first=1) if one[0] == 'background and reduce_zero_label'
    ]
    assert level == 'error' and "makes 1 the class 'background'; remove 'background' from metainfo.classes" in message
    ((kind, level, message),) = find([0, 1, 2, 3], first=1)
    assert level == 'warning'


@pytest.mark.parametrize('suffix', ['jpg', 'JPEG'])
def test_jpeg_label_maps(find, suffix):
    ((kind, level, message),) = find([0, 1, 2, 2], suffix=suffix)
    assert (kind, level) == ('JPEG label maps', 'error') and 'which alters values; export them as PNG' in message


def test_values_of_no_class_are_left_to_loading(find):
    assert find([0, 128, 255]) == []


def test_many_label_maps_are_sampled(find, monkeypatch):
    monkeypatch.setattr('mmfocal.datasets.validation.label_statistics.MAX_SAMPLES', 4)
    ((kind, level, message),) = find(*[[0, 1]] * 20)
    assert (kind, level) == ('class without pixels', 'note') and "'box' in 4 of 20 label maps" in message
    maps = [[0]] * 20
    maps[17] = [0, 1, 2]
    assert find(*maps) == [], 'more are read until there is a second class'


def test_data_sets_stop_or_warn(config, tmp_path):
    for name in ('a', 'b', 'more/c'):
        path = str(tmp_path / f'masks/{name}.png')
        cv2.imwrite(path, np.zeros_like(cv2.imread(path, cv2.IMREAD_GRAYSCALE)))
    with pytest.raises(DataError, match=f'^{tmp_path}/masks: all pixels of 3 label maps are .background. or ignored'):
        LabelMapDataset(**config)
    with pytest.raises(DataError):
        LabelMapDataset(**config, bad_data='skip')
    assert len(LabelMapDataset(**config, test_mode=True)) == 3
    issues, _ = LabelMapDataset(**config, lazy_init=True).find_issues()
    assert [issue.kind for issue in errors_of(issues)] == ['one class only'], 'one list for checking and training'


def test_other_suffixes_are_named_and_may_be_given(config, tmp_path):
    for name, suffix in (('d', '.png'), ('e', '.JPG'), ('f', '.png')):
        cv2.imwrite(str(tmp_path / f'images/{name}{suffix}'), np.zeros((16, 16, 3), np.uint8))
        cv2.imwrite(str(tmp_path / f'masks/{name}.png'), np.zeros((16, 16), np.uint8))
    dataset = LabelMapDataset(**config, lazy_init=True)
    issues = {issue.kind: issue for issue in dataset.find_issues()[0]}
    message = issues['images with another suffix'].message
    assert message.startswith(
        f'{tmp_path}/images: 3 images have another suffix (.png 2, .JPG 1) and are not used, such'
    )
    assert message.endswith("set img_suffix=('.jpg', '.png', '.JPG')")
    assert 'd.png: label map without an image (3 of them)' in issues['label map without an image'].message
    for suffixes in (('.jpg', '.png', '.JPG'), ['.jpg', '.png', '.JPG']):
        dataset = LabelMapDataset(**config, img_suffix=suffixes)
        assert [dataset.get_data_info(i)['img_path'].split('images/')[1] for i in range(6)] == [
            'a.jpg', 'b.jpg', 'd.png', 'e.JPG', 'f.png', 'more/c.jpg',
        ]  # fmt: skip
        assert dataset[3]['data_samples'].gt_sem_seg.shape == (16, 16)
        assert not dataset.find_issues()[0]
    (tmp_path / 'split.txt').write_text('a\nd\ne\n')
    dataset = LabelMapDataset(**config, img_suffix=('.jpg', '.png', '.JPG'), ann_file='split.txt')
    assert [dataset.get_data_info(i)['img_path'][-5:] for i in range(3)] == ['a.jpg', 'd.png', 'e.JPG']
