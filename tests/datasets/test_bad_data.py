"""Damaged data stops training with one message, or is left out and counted with `bad_data=skip`."""

import json
import logging
import re

import cv2
import numpy as np
import pytest
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from PIL import Image
from torch import nn

from mmfocal.datasets.bad_data import copy_flipped
from mmfocal.datasets.coco import CheckedCocoDataset
from mmfocal.engine import FocalRunner
from mmfocal.errors import ConfigError, DataError, MissingFileError

NAN = float('nan')
PIPELINE = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True), dict(type='PackDetInputs')]
WITH_MASKS = [PIPELINE[0], dict(type='LoadAnnotations', with_bbox=True, with_mask=True), PIPELINE[2]]


@pytest.fixture(autouse=True)
def mmdet_scope():
    init_default_scope('mmdet')  # another test may have left another


@pytest.fixture
def coco():
    return dict(
        images=[dict(id=i, file_name=f'{i}.jpg', width=24, height=16) for i in range(1, 9)],
        categories=[dict(id=3, name='disc')],
        annotations=[
            dict(
                id=10 + i,
                image_id=i,
                category_id=3,
                bbox=[4, 4, 10, 8],
                area=80,
                iscrowd=0,
                segmentation=[[4, 4, 14, 4, 14, 12]],
            )
            for i in range(1, 9)
        ],
    )


@pytest.fixture
def config(tmp_path, coco):
    for image in coco['images']:
        cv2.imwrite(str(tmp_path / image['file_name']), np.full((16, 24, 3), 20 * image['id'], np.uint8))
    write(tmp_path, coco)
    return dict(
        ann_file='train.json',
        data_root=f'{tmp_path}/',
        data_prefix=dict(img=''),
        pipeline=PIPELINE,
        metainfo=dict(classes=('disc',)),
        serialize_data=False,
    )


def write(root, coco):
    (root / 'train.json').write_text(json.dumps(coco))


@pytest.fixture
def log(tmp_path, monkeypatch):
    """What is written to MMEngine's current logger."""
    logger = MMLogger.get_instance(tmp_path.name, log_file=str(tmp_path / 'log.txt'))
    monkeypatch.setattr(MMLogger, 'get_current_instance', classmethod(lambda cls: logger))
    return lambda: (tmp_path / 'log.txt').read_text()


def damage(root, how):
    path = root / '2.jpg'
    content = path.read_bytes()
    if how == 'missing':
        path.unlink()
    elif how == 'rotated':
        exif = Image.Exif()
        exif[0x112] = 6
        Image.open(path).save(path, exif=exif)
    elif how == 'size':
        cv2.imwrite(str(path), np.zeros((16, 25, 3), np.uint8))
    elif how == 'header':
        start = content.find(b'\xff\xc0')
        path.write_bytes(content[: start + 5] + b'\x70\x00\x70\x00' + content[start + 9 :])
    else:
        path.write_bytes({'empty': b'', 'text': b'404 Not Found', 'head': content[:200]}[how])


SENTENCES = dict(
    missing=r'2\.jpg \(image 2\): not found; fetch it again',
    empty=r'2\.jpg \(image 2\): not an image, or damaged; write it again',
    text=r'2\.jpg \(image 2\): not an image',
    head=r'2\.jpg \(image 2\): not an image, or damaged',
    rotated=r'2\.jpg: 16 x 24 px \(rotated by its EXIF tag, which loading applies\), but its annotation file records '
    r'24 x 16 px for image 2; correct the size and the annotations there, or the image',
    size=r'2\.jpg: 25 x 16 px, but its annotation file records 24 x 16 px for image 2',
    header=r'2\.jpg: its header claims more than 178 million pixels; it is damaged, or has to be split into tiles',
)


@pytest.mark.parametrize('how', SENTENCES)
def test_an_image_that_is_damaged_while_training(config, tmp_path, how):
    stops = CheckedCocoDataset(**config)
    skips, tests = (CheckedCocoDataset(**config, bad_data='skip', test_mode=mode) for mode in (False, True))
    assert 'skipped' not in skips[1]['data_samples'].metainfo
    damage(tmp_path, how)
    for dataset in (stops, tests):
        assert dataset[0] is not None
        with pytest.raises((DataError, MissingFileError), match=f'^{tmp_path}/{SENTENCES[how]}') as error:
            dataset[1]
        assert '\n' not in str(error.value)
    np.random.seed(0)
    sample = skips[1]['data_samples']
    assert sample.img_id != 2 and len(sample.skipped) == 1
    assert re.match(f'{tmp_path}/{SENTENCES[how]}', sample.skipped[0])
    np.random.seed(0)
    assert skips[1]['data_samples'].img_id == sample.img_id, "NumPy's random state decides, which the loop seeds"


def test_other_errors_are_not_the_datas(config):
    config['pipeline'] = [*PIPELINE[:2], dict(type='Resize', scale=None, scale_factor='x'), PIPELINE[2]]
    for policy in ('stop', 'skip'):
        with pytest.raises(Exception) as error:
            CheckedCocoDataset(**config, bad_data=policy)[0]
        assert not isinstance(error.value, DataError)


def test_bad_entries_and_missing_images_are_left_out_with_a_line_in_the_log(config, coco, tmp_path, log):
    coco['annotations'][0]['bbox'] = [1, 2, NAN, 4]
    coco['annotations'][1].update(category_id=77)
    coco['annotations'][2].update(category_id=78)
    coco['annotations'][3].update(image_id=[5])
    coco['annotations'].append(dict(coco['annotations'][4]))
    coco['annotations'].append(None)
    coco['images'][5]['width'] = -1
    write(tmp_path, coco)
    (tmp_path / '8.jpg').unlink()
    with pytest.raises(DataError, match='train.json: image 6 has width -1 and height 16'):
        CheckedCocoDataset(**config)
    with pytest.raises(DataError, match='image 6 has width -1'):
        CheckedCocoDataset(**config, bad_data='skip', test_mode=True)
    dataset = CheckedCocoDataset(**config, bad_data='skip')
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    assert [(info['img_id'], len(info['instances'])) for info in infos] == [
        (1, 0),
        (2, 0),
        (3, 0),
        (4, 0),
        (5, 1),
        (7, 1),
    ]
    text = log()
    assert f"{tmp_path}/train.json: bad_data='skip' leaves out 2 × unknown category, 1 × " in text
    assert '1 × duplicate id' in text and 'the first: ' in text
    assert f"{tmp_path}/train.json: bad_data='skip' leaves out 1 × missing file; the first: {tmp_path}/8.jpg" in text
    assert text.count('WARNING') == 2


def test_sound_data_is_the_same_with_both_policies(config, log, tmp_path):
    stop, skip = (CheckedCocoDataset(**config, bad_data=policy) for policy in ('stop', 'skip'))
    assert [stop.get_data_info(i) for i in range(8)] == [skip.get_data_info(i) for i in range(8)]
    assert log() == ''


@pytest.mark.parametrize(
    'change, sentence',
    [
        (dict(categories=[dict(id=3)]), "categories.0. .id 3. lacks 'name'; add it"),
        (dict(images='x'), "has no list of 'images'"),
        (dict(images=[None]), 'images.0. is None.*and no valid image remains'),
    ],
)
def test_what_cannot_be_left_out_stops(config, coco, tmp_path, change, sentence):
    write(tmp_path, {**coco, **change})
    with pytest.raises(DataError, match=sentence):
        CheckedCocoDataset(**config, bad_data='skip')


def test_all_images_missing_stops(config, tmp_path):
    for path in tmp_path.glob('*.jpg'):
        path.unlink()
    with pytest.raises(MissingFileError, match='8 of 8 used from'):
        CheckedCocoDataset(**config, bad_data='skip')


def test_a_hundred_bad_samples_in_a_row_stop(config, tmp_path):
    dataset = CheckedCocoDataset(**config, bad_data='skip')
    for path in tmp_path.glob('*.jpg'):
        path.write_bytes(b'')
    with pytest.raises(DataError, match=r'not an image.*\(100 bad samples in a row; list all with'):
        dataset[0]


def test_with_indices_missing_images_are_skipped_when_loaded(config, tmp_path):
    (tmp_path / '1.jpg').unlink()
    dataset = CheckedCocoDataset(**config, bad_data='skip', indices=[0, 4])
    assert len(dataset) == 2 and dataset.get_data_info(1)['img_id'] == 5
    assert dataset[0]['data_samples'].img_id == 5 and 'not found' in dataset[0]['data_samples'].skipped[0]


@pytest.mark.parametrize(
    'mask, sentence',
    [
        (None, 'no segmentation'),
        ([[1, 2, NAN, 4, 5, 6]], 'a polygon with coord'),
        (dict(size=[16, 24], counts='oo'), 'run lengths that cannot be read'),
        (dict(size=[16, 24], counts=[300, 83]), 'run lengths that sum to 383, not to the 384 pixels'),
        (dict(size=[24, 16], counts=[300, 84]), 'run lengths of 16 x 24 px, but its image has 24 x 16'),
    ],
    ids=str,
)
def test_masks_are_looked_at_where_the_pipeline_loads_them(config, coco, tmp_path, mask, sentence):
    coco['annotations'][1]['segmentation'] = mask
    write(tmp_path, coco)
    assert len(CheckedCocoDataset(**config)) == 8
    config['pipeline'] = WITH_MASKS
    with pytest.raises(DataError, match=f'train.json: annotation 12 has {sentence}'):
        CheckedCocoDataset(**config)
    dataset = CheckedCocoDataset(**config, bad_data='skip')
    assert len(dataset[0]['data_samples'].gt_instances.masks) == 1
    assert len(dataset[1]['data_samples'].gt_instances) == 0


def test_images_of_one_pixel_may_be_flipped(config, coco, tmp_path):
    for image, (width, height) in zip(coco['images'], [(1, 1), (1, 9), (9, 1)]):
        image.update(width=width, height=height)
        cv2.imwrite(str(tmp_path / image['file_name']), np.zeros((height, width, 3), np.uint8))
    write(tmp_path, coco)
    flip = dict(type='RandomFlip', prob=1.0, direction=['horizontal', 'vertical', 'diagonal'])
    dataset = CheckedCocoDataset(**{**config, 'pipeline': [*PIPELINE[:2], flip, PIPELINE[2]]})
    for _ in range(5):
        assert [tuple(dataset[index]['inputs'].shape) for index in range(3)] == [(3, 1, 1), (3, 9, 1), (3, 1, 9)]


def test_another_policy(config):
    with pytest.raises(ConfigError, match="^bad_data='ignore': write 'stop', or 'skip'"):
        CheckedCocoDataset(**config, bad_data='ignore')


class Mean(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, inputs, data_samples, mode):
        return dict(loss=self.layer(inputs[0].float().mean().view(1, 1)).square().mean())


def train(tmp_path, config, policy, **options):
    FocalRunner(
        Mean(),
        str(tmp_path / 'work'),
        default_scope='mmdet',
        experiment_name=f'{tmp_path.name} {policy}',
        train_dataloader=dict(
            batch_size=2,
            num_workers=2,
            persistent_workers=True,
            sampler=dict(type='DefaultSampler', shuffle=True),
            dataset=dict(type='CheckedCocoDataset', **config, bad_data=policy),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=3),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-6)),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=1), logger=dict(type='LoggerHook', interval=1)
        ),
        custom_hooks=[dict(type='BadDataHook')],
        randomness=dict(seed=0),
        **options,
    ).train()
    return next((tmp_path / 'work').glob('*/*.log')).read_text()


def test_a_training_counts_what_it_skips(tmp_path, config):
    for name in ('2.jpg', '5.jpg'):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:150])
    text = train(tmp_path, config, 'skip')
    logging.shutdown()
    # Each of the two is drawn once an epoch, and now and then again in place of the other.
    lines = [
        json.loads(line) for line in next((tmp_path / 'work').glob('*/vis_data/scalars.json')).read_text().splitlines()
    ]
    running = [line.get('bad_samples', 0) for line in lines]
    assert running == sorted(running) and running[-1] >= 6 and len(lines) == 12
    told = re.findall(r"bad_data='skip': another sample replaces \S+/(.)\.jpg \(image .\): not an image", text)
    assert sorted(told) == ['2', '5'], 'each sentence once'
    assert 'Others are only counted' not in text
    assert re.search(r'bad_samples: \d+\b', text)


def test_a_training_without_bad_data_has_no_count(tmp_path, config):
    assert 'bad_samples' not in train(tmp_path, config, 'skip')


def test_a_training_stops_at_bad_data(tmp_path, config):
    (tmp_path / '5.jpg').write_bytes(b'404 Not Found')
    with pytest.raises(DataError, match=r'5\.jpg \(image 5\): not an image, or damaged'):
        train(tmp_path, config, 'stop')


@pytest.mark.parametrize('shape', [(5, 4, 3), (1, 4, 3), (5, 1, 3), (5, 4), (5, 4, 1), (5, 4, 6)])
@pytest.mark.parametrize('dtype', ['uint8', 'float32', 'int64'])
@pytest.mark.parametrize('axis', [0, 1, (0, 1)])
def test_flipped_images_are_copied(shape, dtype, axis):
    image = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    flipped = np.flip(image, axis)
    copied = copy_flipped(dict(img=flipped, gt_seg_map=image))
    assert copied['gt_seg_map'] is image and min(copied['img'].strides) > 0
    np.testing.assert_array_equal(copied['img'], flipped)
    assert copied['img'].dtype == flipped.dtype and not np.shares_memory(copied['img'], image)


def test_images_are_copied_right_after_the_flip(config):
    flip = dict(type='RandomFlip', prob=1.0)
    dataset = CheckedCocoDataset(**{**config, 'pipeline': [*PIPELINE[:2], flip, *PIPELINE[2:]]})
    transforms = dataset.pipeline.transforms
    assert transforms[3] is copy_flipped and type(transforms[2]).__name__ == 'RandomFlip'
    assert transforms.count(copy_flipped) == 2 and transforms[-2] is copy_flipped
