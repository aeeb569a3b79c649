"""The checks alone; tests/segmentation/ has them behind the data sets."""

import subprocess
import sys

import numpy as np
import pytest

from mmfocal.datasets.validation import label_maps as label_map_checks
from mmfocal.errors import DataError, MissingFileError


def test_they_need_no_openmmlab_library():
    code = (
        'import sys, mmfocal.datasets.validation.label_maps\n'
        "assert not {'mmseg', 'mmcv', 'mmengine', 'torch'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, '-c', code], check=True)


def test_what_is_there_passes(tmp_path):
    (tmp_path / 'split.txt').touch()
    for path in (tmp_path, tmp_path / 'split.txt'):
        label_map_checks.check_path(str(path), '', 'ann_file')


def test_an_empty_variable_stands_for_its_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('CITYSCAPES_ROOT', '')
    with pytest.raises(MissingFileError, match='^CITYSCAPES_ROOT=data/cityscapes: folder not found; set'):
        label_map_checks.check_path('data/cityscapes/gtFine', 'data/cityscapes', 'data_prefix.seg_map_path')


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.int32, np.float32])
def test_values_in_any_type(dtype):
    values = np.arange(4, dtype=dtype).reshape(2, 2)
    label_map_checks.check_values(values, 'a.png', 4)
    label_map_checks.check_values(values, 'a.png', 3, first=1)
    label_map_checks.check_values(values, 'a.png', 3, ignore_index=3)
    with pytest.raises(DataError, match='^a.png: holds the label values 3.*, and the 3 classes have'):
        label_map_checks.check_values(values, 'a.png', 3)


def test_sizes():
    label_map_checks.check_shape(np.zeros((2, 3)), 'a.png', (2, 3))
    label_map_checks.check_shape(np.zeros((2, 3)), 'a.png')
    with pytest.raises(DataError, match='^a.png: 3 x 2 px, and its image has 2 x 3 px; '):
        label_map_checks.check_shape(np.zeros((2, 3)), 'a.png', (3, 2))
