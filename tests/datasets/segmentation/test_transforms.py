"""LoadCheckedAnnotations loads what LoadAnnotations does, and refuses what a loss could not take."""

import cv2
import numpy as np
import pytest
from mmengine.config import Config, ConfigDict
from mmseg.apis import inference_model
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import MODELS
from PIL import Image

from mmfocal.datasets.label_maps import LabelMapDataset
from mmfocal.datasets.transforms import LoadCheckedAnnotations
from mmfocal.errors import DataError


@pytest.fixture
def load(tmp_path):
    """Writes a label map, a Pillow image, and loads it with a transform."""

    def load(image, transform, suffix='png', **info):
        path = tmp_path / f'labels.{suffix}'
        image.save(path)
        results = dict(
            seg_map_path=str(path),
            seg_fields=[],
            ori_shape=image.size[::-1],
            reduce_zero_label=False,
            num_classes=5,
            ignore_index=255,
        )
        return transform.transform({**results, **info})

    return load


def grey(*values, dtype=np.uint8):
    return Image.fromarray(np.array([values, values], dtype))


@pytest.mark.parametrize(
    'image, info',
    [
        (grey(0, 1, 4, 255), dict()),
        (grey(0, 1, 5, 255), dict(reduce_zero_label=True)),
        (grey(0, 1, 3, 255), dict(label_map={0: 1, 1: 0, 2: 255, 3: 2})),
        (grey(0, 1, 4, 255), dict(label_map={0: 1, 1: 0, 2: 255, 3: 2}, reduce_zero_label=True)),
        (grey(0, 1, 254, 255), dict(reduce_zero_label=True, num_classes=255)),
        (grey(0, 1, 4, 255, dtype=np.uint16), dict()),
        (grey(0, 1, 4, 255, dtype=np.int32), dict(suffix='tif')),
        (grey(0, 1, 4, 255, dtype=np.float32), dict(suffix='tif')),
        (grey(0, 255, 0, 255).convert('1'), dict()),
        (grey(0, 1, 4, 2).convert('P'), dict()),
    ],
    ids=lambda value: getattr(value, 'mode', str(value)),
)
def test_it_loads_what_mmsegmentations_does(load, image, info):
    expected, ours = load(image, LoadAnnotations(), **info), load(image, LoadCheckedAnnotations(), **info)
    assert ours.keys() == expected.keys() and ours['seg_fields'] == expected['seg_fields'] == ['gt_seg_map']
    assert ours['gt_seg_map'].dtype == expected['gt_seg_map'].dtype == np.uint8
    np.testing.assert_array_equal(ours['gt_seg_map'], expected['gt_seg_map'])


def test_a_decoder_of_choice(load, monkeypatch):
    monkeypatch.setattr(Image, 'open', None)
    results = load(grey(0, 1, 2), LoadCheckedAnnotations(imdecode_backend='cv2'))
    assert results['gt_seg_map'].tolist() == [[0, 1, 2]] * 2


@pytest.mark.parametrize(
    'image, info, sentence',
    [
        (grey(0, 7, 19, 255, 254), {}, r'7, 19, 254, but the 5 classes have the values 0 to 4 \(255 is ign'),
        (grey(0, 5, 6, 255), dict(reduce_zero_label=True), r'6, .* have the values 1 to 5 \(0 and 255 are ign'),
        (grey(0, 151), dict(reduce_zero_label=True, label_map=dict.fromkeys(range(150), 255)), '151, but'),
        (grey(1, 255), dict(ignore_index=0), r'255, but the 5 classes have the values 0 to 4 \(0 is ignored\)'),
        (grey(0, 26001, dtype=np.uint16), {}, 'label values 26001, but'),
        (grey(0, 256, dtype=np.uint16), {}, 'label values 256,'),
        (grey(0, -1, dtype=np.int32), dict(suffix='tif'), 'label values -1,'),
        (grey(0, 0.5, np.nan, dtype=np.float32), dict(suffix='tif'), 'label values 0.5, nan,'),
        (grey(*range(5, 12)), {}, 'label values 5, 6, 7, 8, 9 and 2 more,'),
        (grey(0, 1).convert('RGB'), {}, r'an array of 2 x 2 x 3 values, but a label map has one channel; write'),
        (grey(0, 1), dict(ori_shape=(4, 3)), r'2 x 2 px, but its image has 3 x 4 px; resize one of them'),
    ],
)
def test_a_wrong_label_map(load, tmp_path, image, info, sentence):
    with pytest.raises(DataError, match=f'^{tmp_path}/labels.*: .*{sentence}'):
        load(image, LoadCheckedAnnotations(), **info)


@pytest.mark.parametrize('backend', ['pillow', 'cv2'])
@pytest.mark.parametrize('share', [0, 0.5])
def test_a_label_map_that_cannot_be_decoded(config, tmp_path, share, backend):
    path = tmp_path / 'masks/b.png'
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))] if backend == 'pillow' or not share else b'no image')
    config['pipeline'][1]['imdecode_backend'] = backend
    dataset = LabelMapDataset(**config)
    with pytest.raises(DataError, match='/masks/b.png: not an image, or damaged; write this label map'):
        dataset[1]


def test_label_maps_that_are_loaded_after_resizing(config, tmp_path):
    config['pipeline'].insert(1, dict(type='Resize', scale=(64, 64), keep_ratio=True))
    dataset = LabelMapDataset(**config, test_mode=True)
    assert dataset[1]['inputs'].shape == (3, 64, 43)
    assert dataset[1]['data_samples'].gt_sem_seg.shape == (48, 32)
    cv2.imwrite(str(tmp_path / 'masks/b.png'), np.zeros((64, 43), np.uint8))
    with pytest.raises(DataError, match='/masks/b.png: 43 x 64 px, but its image has 32 x 48 px; '):
        dataset[1]


def test_an_image_alone_is_left_alone():
    results = dict(img_path='a.jpg')
    assert LoadCheckedAnnotations().transform(results) == dict(img_path='a.jpg')


def test_a_data_set_of_mmsegmentations_own_has_its_values_unchecked(config, tmp_path):
    cv2.imwrite(str(tmp_path / 'masks/b.png'), np.full((48, 32), 200, np.uint8))
    dataset = BaseSegDataset(**config)
    assert dataset[1]['data_samples'].gt_sem_seg.data.unique().tolist() == [200]
    cv2.imwrite(str(tmp_path / 'masks/b.png'), np.zeros((8, 8), np.uint8))
    with pytest.raises(DataError, match='/masks/b.png: 8 x 8 px, but its image has'):
        dataset[1]


def test_inference_by_mmsegmentation(config):
    """Its functions take `LoadAnnotations` out of the test pipeline, by that name, and have no label maps."""
    model = MODELS.build(
        ConfigDict(
            type='EncoderDecoder',
            data_preprocessor=dict(type='SegDataPreProcessor'),
            backbone=dict(type='ResNetV1c', depth=18, base_channels=8),
            decode_head=dict(type='FCNHead', in_channels=64, channels=8, num_convs=1, num_classes=3),
            test_cfg=dict(mode='whole'),
        )
    )
    model.cfg = Config(dict(test_pipeline=config['pipeline']))
    result = inference_model(model.eval(), config['data_root'] + 'images/a.jpg')
    assert result.pred_sem_seg.shape == (32, 40) and 'gt_sem_seg' not in result
