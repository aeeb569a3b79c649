"""Issues of label maps' values alone; tests/datasets/segmentation has them as the data sets report them."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mmfocal.datasets.validation.files import check_exists
from mmfocal.datasets.validation.label_maps import find_value_issues
from mmfocal.errors import MissingFileError


def test_they_need_no_openmmlab_library():
    code = """
import sys, types, mmfocal
package = types.ModuleType('mmfocal.datasets')  # without MMCV's operators, which the package installs for data sets
package.__path__ = [f'{mmfocal.__path__[0]}/datasets']
sys.modules['mmfocal.datasets'] = package
import mmfocal.datasets.validation.label_maps
assert not {'mmseg', 'mmcv', 'mmengine', 'torch'} & sys.modules.keys()
"""
    subprocess.run([sys.executable, '-c', code], check=True)


def test_what_is_there_passes(tmp_path):
    (tmp_path / 'split.txt').touch()
    for path in (tmp_path, tmp_path / 'split.txt'):
        check_exists(str(path), '', 'ann_file')


def test_an_empty_variable_stands_for_its_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('CITYSCAPES_ROOT', '')
    with pytest.raises(MissingFileError, match='^CITYSCAPES_ROOT=data/cityscapes: folder not found; set'):
        check_exists('data/cityscapes/gtFine', 'data/cityscapes', 'data_prefix.seg_map_path')


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.int32, np.float32])
def test_values_in_any_type(dtype):
    values = np.arange(4, dtype=dtype).reshape(2, 2)
    assert find_value_issues(values, 'a.png', 4) == []
    assert find_value_issues(values, 'a.png', 3, first=1) == []
    assert find_value_issues(values, 'a.png', 3, ignore_index=3) == []
    (issue,) = find_value_issues(values, 'a.png', 3)
    assert issue.kind == 'label value beyond the classes'
    assert issue.message.startswith('a.png: holds the label values 3') and ', but the 3 classes have' in issue.message


def test_jpeg_alters_values():
    values = np.array([[0, 1], [3, 7]])
    assert 'JPEG alters values' in find_value_issues(values, 'a.JPG', 3)[0].message
    assert 'JPEG' not in find_value_issues(values, 'a.png', 3)[0].message


def test_sizes():
    assert find_value_issues(np.zeros((2, 3)), 'a.png', image_shape=(2, 3)) == []
    assert find_value_issues(np.zeros((2, 3)), 'a.png') == []
    (issue,) = find_value_issues(np.zeros((2, 3)), 'a.png', image_shape=(3, 2))
    assert issue.kind == 'label map of another shape'
    assert issue.message.startswith('a.png: 3 x 2 px, but its image has 2 x 3 px; resize one of them')


def test_a_label_map_of_an_image_that_exif_rotates(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    Image.new('RGB', (3, 2)).save(tmp_path / 'a.jpg', exif=exif)
    (issue,) = find_value_issues(np.zeros((2, 3)), 'a.png', image_shape=(3, 2), image_path=str(tmp_path / 'a.jpg'))
    assert 'after rotation by its EXIF tag' in issue.message and 'rotate the label map too' in issue.message
