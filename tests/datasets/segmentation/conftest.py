import cv2
import numpy as np
import pytest
from mmengine.registry import init_default_scope

import mmfocal.registration  # noqa: F401

CLASSES = ('background', 'disc', 'box')
SIZES = {'a': (40, 32), 'b': (32, 48), 'more/c': (24, 24)}  # width, height


@pytest.fixture(autouse=True)
def mmseg_scope():
    init_default_scope('mmseg')  # another test may have left another


@pytest.fixture
def config(tmp_path):
    """Arguments for three images, one in a folder of its own, and label maps of 0, 1, 2 and 255."""
    rng = np.random.default_rng(0)
    for name, (width, height) in SIZES.items():
        write(tmp_path, f'images/{name}.jpg', rng.integers(0, 256, (height, width, 3), np.uint8))
        labels = rng.integers(0, 3, (height, width), np.uint8)
        labels[:4] = 255
        write(tmp_path, f'masks/{name}.png', labels)
    return dict(
        data_root=f'{tmp_path}/',
        data_prefix=dict(img_path='images', seg_map_path='masks'),
        metainfo=dict(classes=CLASSES),
        serialize_data=False,  # which collects garbage, for half a second
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadCheckedAnnotations'), dict(type='PackSegInputs')],
    )


def write(root, name, pixels):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(root / name), pixels)
