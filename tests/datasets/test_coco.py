"""CheckedCocoDataset loads what CocoDataset loads, and says what is wrong before training starts."""

import json
import pickle

import cv2
import numpy as np
import pytest
import torch
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.fileio import HTTPBackend
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from mmfocal.datasets.coco import CheckedCocoDataset
from mmfocal.errors import ConfigError, DataError, MissingFileError

CLASSES = ('disc', 'box', 'star')
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmdet.PackDetInputs'),
]


@pytest.fixture(autouse=True)
def mmdet_scope():
    init_default_scope('mmdet')  # another test may have left another


@pytest.fixture
def coco():
    """A parsed file: image 3 has no boxes, image 4 lies in a folder of its own and is small."""
    sizes = {1: (64, 48), 2: (40, 56), 3: (64, 64), 4: (20, 20)}
    return dict(
        images=[
            dict(id=i, file_name=f'more/{i}.png' if i == 4 else f'{i}.png', width=w, height=h)
            for i, (w, h) in sizes.items()
        ],
        categories=[dict(id=i, name=name) for i, name in zip((3, 5, 9), CLASSES)],
        annotations=[
            dict(id=10, image_id=1, category_id=3, bbox=[4, 4, 20, 10], area=200, iscrowd=0),
            dict(id=11, image_id=1, category_id=9, bbox=[0.5, 1, 8, 8], area=64, iscrowd=1),
            dict(id=12, image_id=2, category_id=5, bbox=[30, 20, 10, 12], area=120, iscrowd=0),
            dict(
                id=13,
                image_id=4,
                category_id=9,
                bbox=[2, 2, 10, 12],
                area=120,
                iscrowd=0,
                segmentation=[[2, 2, 12, 2, 12, 14]],
            ),
        ],
    )


@pytest.fixture
def config(tmp_path, coco):
    """The constructor's arguments for `coco`, written to disk with its images."""
    (tmp_path / 'train/more').mkdir(parents=True)
    for image in coco['images']:
        pixels = np.full((image['height'], image['width'], 3), image['id'], np.uint8)
        cv2.imwrite(str(tmp_path / 'train' / image['file_name']), pixels)
    write(tmp_path, coco)
    return dict(
        ann_file='train.json',
        data_root=f'{tmp_path}/',
        data_prefix=dict(img='train/'),
        metainfo=dict(classes=CLASSES),
        pipeline=PIPELINE,
    )


def write(root, coco):
    (root / 'train.json').write_text(json.dumps(coco))


OPTIONS = [
    dict(),
    dict(test_mode=True),
    dict(serialize_data=False),
    dict(indices=2),
    dict(indices=[2, 0], serialize_data=False),
    dict(filter_cfg=dict(filter_empty_gt=True, min_size=32)),
    dict(filter_cfg=dict(filter_empty_gt=True, min_size=32), test_mode=True),
    dict(metainfo=dict(classes=('disc', 'star'))),
    dict(lazy_init=True),
]


@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_sound_data_loads_as_in_mmdetection(config, options):
    theirs = CocoDataset(**{**config, **options})
    ours = CheckedCocoDataset(**{**config, **options})
    assert len(ours) == len(theirs) > 0
    assert ours.metainfo == theirs.metainfo
    for i in range(len(theirs)):
        assert ours.get_data_info(i) == theirs.get_data_info(i)
    assert ours.cat_ids == theirs.cat_ids and ours.cat2label == theirs.cat2label
    assert ours.cat_img_map == theirs.cat_img_map
    assert vars(ours).keys() - {'bad_data'} == vars(theirs).keys()
    ours, theirs = ours[0], theirs[0]
    assert torch.equal(ours['inputs'], theirs['inputs'])
    assert torch.equal(
        ours['data_samples'].gt_instances.bboxes.tensor, theirs['data_samples'].gt_instances.bboxes.tensor
    )


def test_it_is_built_by_name_and_travels_to_workers(config):
    dataset = DATASETS.build(dict(type='CheckedCocoDataset', **config))
    assert type(dataset) is CheckedCocoDataset
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.get_data_info(3) == dataset.get_data_info(3)
    assert len(dataset.get_subset([1])) == 1


def test_the_file_is_parsed_once(config, monkeypatch):
    parsed = []
    load = json.load
    monkeypatch.setattr(json, 'load', lambda file, **kwargs: parsed.append(file.name) or load(file, **kwargs))
    CheckedCocoDataset(**config)
    assert parsed == [config['data_root'] + 'train.json']


@pytest.mark.parametrize('test_mode', [False, True])
def test_a_missing_root(tmp_path, monkeypatch, test_mode):
    monkeypatch.setenv('COCO_ROOT', f'{tmp_path}/coco/')
    with pytest.raises(MissingFileError, match='^COCO_ROOT=.*/coco/: folder not found; set COCO_ROOT'):
        CheckedCocoDataset(
            ann_file='annotations/a.json',
            data_root=f'{tmp_path}/coco/',
            data_prefix=dict(img='train/'),
            test_mode=test_mode,
        )


def test_a_missing_annotation_file(config, tmp_path):
    (tmp_path / 'train.json').unlink()
    with pytest.raises(MissingFileError, match='^data_root=.*: train.json not found; '):
        CheckedCocoDataset(**config)


def test_a_truncated_annotation_file(config, tmp_path):
    text = (tmp_path / 'train.json').read_text()
    (tmp_path / 'train.json').write_text(text[: len(text) // 2])
    with pytest.raises(DataError, match='/train.json: not JSON, or truncated'):
        CheckedCocoDataset(**config)


@pytest.mark.parametrize('test_mode', [False, True])
def test_an_unknown_category_id(config, coco, tmp_path, test_mode):
    coco['annotations'][1]['category_id'] = 4
    write(tmp_path, coco)
    with pytest.raises(DataError, match='/train.json: annotation 11 has category_id 4, which is not'):
        CheckedCocoDataset(**config, test_mode=test_mode)


@pytest.mark.parametrize(
    'change, sentence',
    [
        (dict(image_id=77), 'annotation 11 has image_id 77, which is not'),
        (dict(bbox=[1, 2, float('nan'), 4]), r'annotation 11 has bbox \[1, 2, nan, 4\]'),
        (dict(bbox=[1, 2, '3', 4]), r"annotation 11 has bbox \[1, 2, '3', 4\]"),
        (dict(id=10), 'id 10 occurs twice in annotations'),
    ],
)
def test_a_wrong_annotation(config, coco, tmp_path, change, sentence):
    coco['annotations'][1].update(change)
    write(tmp_path, coco)
    with pytest.raises(DataError, match=f'/train.json: {sentence}'):
        CheckedCocoDataset(**config)


def test_test_images_without_annotations(config, coco, tmp_path):
    del coco['annotations']
    write(tmp_path, coco)
    assert len(CheckedCocoDataset(**config, test_mode=True)) == 4
    with pytest.raises(DataError, match="has no list of 'annotations'"):
        CheckedCocoDataset(**config)


def test_class_names_default_to_cocos_and_are_checked(config):
    del config['metainfo']
    sentence = "^metainfo.classes: 'person', .* and 75 more not in the categories of .*, which has 'disc', "
    with pytest.raises(ConfigError, match=sentence):
        CheckedCocoDataset(**config)


@pytest.mark.parametrize('test_mode', [False, True])
def test_missing_images_are_counted(config, tmp_path, test_mode):
    (tmp_path / 'train/2.png').unlink()
    (tmp_path / 'train/more/4.png').unlink()
    with pytest.raises(MissingFileError, match=r'/2.png: image not found \(2 of 4 used from .*/train.json '):
        CheckedCocoDataset(**config, test_mode=test_mode)


def test_images_that_are_not_used_may_be_missing(config, tmp_path):
    (tmp_path / 'train/3.png').unlink()
    (tmp_path / 'train/more/4.png').unlink()
    assert len(CheckedCocoDataset(**config, filter_cfg=dict(filter_empty_gt=True, min_size=32))) == 2
    assert len(CheckedCocoDataset(**config, indices=2)) == 2
    with pytest.raises(MissingFileError, match=r'/3.png: image not found \(1 of 3 used'):
        CheckedCocoDataset(**config, indices=3)


def test_images_that_the_pipeline_loads_from_a_remote_backend_are_not_looked_for(config, tmp_path):
    (tmp_path / 'train/1.png').unlink()
    config['pipeline'] = [dict(type='LoadImageFromFile', backend_args=dict(backend='http')), *PIPELINE[1:]]
    assert len(CheckedCocoDataset(**config)) == 4


@pytest.mark.parametrize(
    'root, backend_args',
    [
        ('http://nowhere.invalid/coco/', None),
        ('data/nowhere/', dict(backend='http')),  # as with a backend that maps local paths to its own
    ],
)
def test_a_remote_data_set_is_left_to_its_backend(config, coco, monkeypatch, root, backend_args):
    asked = []

    def get(self, url):
        asked.append(url)
        return json.dumps(coco).encode()

    monkeypatch.setattr(HTTPBackend, 'get', get)
    config.update(ann_file=root + 'train.json', data_root='', data_prefix=dict(img=root + 'train'))
    assert len(CheckedCocoDataset(**config, backend_args=backend_args)) == 4
    coco['annotations'][1]['category_id'] = 4
    with pytest.raises(DataError, match=f'^{root}train.json: annotation 11'):
        CheckedCocoDataset(**config, backend_args=backend_args)
    assert asked == [root + 'train.json'] * 2


def test_a_filter_that_leaves_nothing(config):
    with pytest.raises(DataError, match=r"/train.json: filter_cfg=\{'min_size': 100\} leaves none"):
        CheckedCocoDataset(**config, filter_cfg=dict(min_size=100))


def test_lazy_init_waits(config, tmp_path):
    (tmp_path / 'train.json').unlink()
    dataset = CheckedCocoDataset(**config, lazy_init=True)
    with pytest.raises(MissingFileError, match='train.json not found'):
        dataset.full_init()


def test_the_data_set_speaks_before_the_evaluator(config, tmp_path):
    (tmp_path / 'train.json').unlink()
    runner = Runner(
        model=NoModel(),
        work_dir=str(tmp_path / 'work'),
        default_scope='mmdet',
        experiment_name='order',
        val_dataloader=dict(
            batch_size=1,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=dict(type='CheckedCocoDataset', **config, test_mode=True),
        ),
        val_evaluator=dict(type='CocoMetric', ann_file=config['data_root'] + 'train.json'),
        val_cfg=dict(),
    )
    with pytest.raises(MissingFileError, match='train.json not found; '):
        runner.val()


class NoModel(BaseModel):
    def forward(self, inputs, data_samples=None, mode='tensor'):
        return inputs
