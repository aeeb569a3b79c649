"""CheckedCocoPanopticDataset loads what CocoPanopticDataset loads, and says what is wrong before training."""

import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmdet.datasets import CocoPanopticDataset
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import BaseLoop

from mmfocal.datasets import coco_panoptic
from mmfocal.datasets.class_checks import CheckClassesHook
from mmfocal.datasets.coco_panoptic import CheckedCocoPanopticDataset, CheckedCocoPanopticMetric
from mmfocal.errors import ConfigError, DataError, MissingFileError

ROOT = Path(__file__).parents[2]
METAINFO = dict(classes=('disc', 'box', 'sky'), thing_classes=('disc', 'box'), stuff_classes=('sky',))
PIPELINE = [dict(type='LoadImageFromFile'), dict(type='LoadPanopticAnnotations'), dict(type='PackDetInputs')]


@pytest.fixture(autouse=True)
def panopticapi(tmp_path, monkeypatch):
    """A stand-in with the one function that loading needs, for a machine without the package."""
    init_default_scope('mmdet')  # another test may have left another
    package = tmp_path / 'packages/panopticapi'
    package.mkdir(parents=True)
    (package / '__init__.py').touch()
    (package / 'utils.py').write_text('def rgb2id(pixels):\n    return pixels @ [1, 256, 65536]\n')
    monkeypatch.syspath_prepend(str(package.parent))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.split('.')[0] == 'panopticapi':
            del sys.modules[name]


@pytest.fixture
def coco():
    """A parsed file of two images: in the second, a box without area and the first's segment id."""

    def segment(number, category, bbox):
        return dict(id=number, category_id=category, bbox=bbox, area=bbox[2] * bbox[3], iscrowd=0)

    return dict(
        images=[dict(id=i, file_name=f'{i}.jpg', width=40, height=32) for i in (1, 2)],
        categories=[
            dict(id=i, name=name, isthing=thing) for i, name, thing in ((3, 'disc', 1), (5, 'box', 1), (9, 'sky', 0))
        ],
        annotations=[
            dict(
                image_id=1,
                file_name='1.png',
                segments_info=[segment(700, 3, [4, 4, 20, 10]), segment(70000, 9, [0, 0, 40, 32])],
            ),
            dict(
                image_id=2,
                file_name='2.png',
                segments_info=[segment(700, 5, [0, 0, 8, 8]), segment(8, 3, [0, 20, 0, 0])],
            ),
        ],
    )


@pytest.fixture
def config(tmp_path, coco):
    """The constructor's arguments for `coco`, written to disk with its images and segments."""
    (tmp_path / 'train').mkdir()
    (tmp_path / 'segments').mkdir()
    for annotation in coco['annotations']:
        ids = np.zeros((32, 40), int)
        for segment in reversed(annotation['segments_info']):
            x, y, width, height = segment['bbox']
            ids[y : y + height, x : x + width] = segment['id']
        cv2.imwrite(str(tmp_path / f'train/{annotation["image_id"]}.jpg'), np.full((32, 40, 3), 99, np.uint8))
        bgr = np.stack([ids >> 16, ids >> 8 & 255, ids & 255], -1)
        cv2.imwrite(str(tmp_path / 'segments' / annotation['file_name']), bgr)
    write(tmp_path, coco)
    return dict(
        ann_file='train.json',
        data_root=f'{tmp_path}/',
        metainfo=METAINFO,
        pipeline=PIPELINE,
        data_prefix=dict(img='train/', seg='segments/'),
    )


def write(root, coco):
    (root / 'train.json').write_text(json.dumps(coco))


@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(test_mode=True),
        dict(indices=1),
        dict(filter_cfg=dict(filter_empty_gt=True, min_size=32)),
    ],
    ids=str,
)
def test_sound_data_loads_as_in_mmdetection(config, options):
    theirs = CocoPanopticDataset(**{**config, **options})
    ours = DATASETS.build(dict(type='CheckedCocoPanopticDataset', **{**config, **options}))
    assert type(ours) is CheckedCocoPanopticDataset
    assert len(ours) == len(theirs) == options.get('indices', 2)
    assert ours.metainfo == theirs.metainfo and ours.cat2label == theirs.cat2label
    assert vars(ours).keys() - {'bad_data'} == vars(theirs).keys()
    for i in range(len(theirs)):
        assert ours.get_data_info(i) == theirs.get_data_info(i)
        mine, other = ours[i]['data_samples'], theirs[i]['data_samples']
        assert torch.equal(mine.gt_sem_seg.sem_seg, other.gt_sem_seg.sem_seg)
        assert (mine.gt_instances.masks.masks == other.gt_instances.masks.masks).all()
    sample = ours[0]['data_samples']
    assert sample.gt_instances.labels.tolist() == [0] and sample.gt_instances.masks.masks.sum() == 200
    assert sample.gt_sem_seg.sem_seg.unique().tolist() == [0, 2]


def test_classes_of_part_of_the_file(config, coco, tmp_path):
    coco['annotations'][1]['segments_info'] = []
    del coco['annotations'][0]['segments_info'][1]
    write(tmp_path, coco)
    config['metainfo'] = dict(classes=('disc',), thing_classes=('disc',), stuff_classes=())
    assert len(CheckedCocoPanopticDataset(**config)) == 2


@pytest.mark.parametrize('command', [['train.py'], ['test.py', 'none.pth']], ids=lambda command: command[0])
def test_without_panopticapi_training_and_testing_say_so(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(coco_panoptic, 'find_spec', lambda name: None)
    monkeypatch.chdir(ROOT)
    script, *checkpoint = command
    config = 'configs/panoptic_fpn_r50_1x.py'
    monkeypatch.setattr(sys, 'argv', [script, config, *checkpoint, '--work-dir', str(tmp_path)])
    with pytest.raises(SystemExit, match='1'):
        runpy.run_path(str(ROOT / 'tools' / script), run_name='__main__')
    assert capsys.readouterr().err.splitlines()[-1] == (
        'error: CheckedCocoPanopticDataset needs panopticapi, which is not on PyPI: '
        'pip install git+https://github.com/cocodataset/panopticapi.git'
    )


def test_a_missing_root(config, tmp_path, monkeypatch):
    monkeypatch.setenv('COCO_ROOT', f'{tmp_path}/coco/')
    with pytest.raises(MissingFileError, match='^COCO_ROOT=.*/coco/: folder not found; set COCO_ROOT'):
        CheckedCocoPanopticDataset(**{**config, 'data_root': f'{tmp_path}/coco/'})


def test_missing_segments(config, tmp_path):
    (tmp_path / 'segments/2.png').unlink()
    assert len(CheckedCocoPanopticDataset(**config, indices=1)) == 1
    with pytest.raises(MissingFileError, match=r'/segments/2.png: image not found \(1 of 2 used from '):
        CheckedCocoPanopticDataset(**config)
    (tmp_path / 'train/1.jpg').unlink()
    with pytest.raises(MissingFileError, match='/train/1.jpg: image not found'):
        CheckedCocoPanopticDataset(**config)


def test_a_file_of_boxes(config, coco, tmp_path):
    coco['annotations'] = [dict(id=1, image_id=1, category_id=3, bbox=[0, 0, 9, 9], area=81)]
    write(tmp_path, coco)
    sentence = r'/train.json: annotations\[0\] lacks its image_id or its list of segments_info; name a '
    with pytest.raises(DataError, match=sentence):
        CheckedCocoPanopticDataset(**config)


@pytest.mark.parametrize('test_mode', [False, True])
def test_a_wrong_segment(config, coco, tmp_path, test_mode):
    segment = coco['annotations'][0]['segments_info'][1]
    segment['category_id'] = 4
    write(tmp_path, coco)
    with pytest.raises(DataError, match='/train.json: segment 70000 of image 1 has category_id 4, which is'):
        CheckedCocoPanopticDataset(**config, test_mode=test_mode)
    del segment['bbox']
    write(tmp_path, coco)
    with pytest.raises(DataError, match='/train.json: a segment of image 1 is .*; write an object with '):
        CheckedCocoPanopticDataset(**config, test_mode=test_mode)


@pytest.mark.parametrize('test_mode', [False, True])
def test_unknown_images_and_no_annotations(config, coco, tmp_path, test_mode):
    coco['annotations'][0]['image_id'] = 77
    write(tmp_path, coco)
    with pytest.raises(DataError, match=r'annotations\[0\] has image_id 77, which is not'):
        CheckedCocoPanopticDataset(**config, test_mode=test_mode)
    del coco['annotations']
    write(tmp_path, coco)
    config['data_prefix'] = dict(img='train/')
    if test_mode:
        assert len(CheckedCocoPanopticDataset(**config, test_mode=True)) == 2
    else:
        with pytest.raises(DataError, match="has no list of 'annotations'"):
            CheckedCocoPanopticDataset(**config)


@pytest.mark.parametrize('content', ['[]', '{"images": 3}', '{"ima'])
def test_not_coco(config, tmp_path, content):
    (tmp_path / 'train.json').write_text(content)
    with pytest.raises(DataError, match='/train.json: '):
        CheckedCocoPanopticDataset(**config)


def test_things_and_stuff_are_the_files(config, coco, tmp_path):
    config['metainfo'] = dict(METAINFO, thing_classes=('disc',), stuff_classes=('box', 'sky'))
    sentence = r"^metainfo.thing_classes: .* has isthing=1 for .*; write thing_classes=\('disc', 'box'\)$"
    with pytest.raises(ConfigError, match=sentence):
        CheckedCocoPanopticDataset(**config)
    config['metainfo'] = dict(METAINFO, classes=('disc', 'box', 'sea'))
    with pytest.raises(ConfigError, match="^metainfo.classes: 'sea' not in the categories of "):
        CheckedCocoPanopticDataset(**config)
    coco['categories'].reverse()
    write(tmp_path, coco)
    config['metainfo'] = dict(METAINFO, classes=('sky', 'box', 'disc'), thing_classes=('box', 'disc'))
    sentence = r"^metainfo.classes: list all things first; write classes=\('box', 'disc', 'sky'\)$"
    with pytest.raises(ConfigError, match=sentence):
        CheckedCocoPanopticDataset(**config)
    config['metainfo'] = METAINFO
    dataset = CheckedCocoPanopticDataset(**config)
    assert dataset.cat2label == {3: 0, 5: 1, 9: 2}, 'categories are matched by name, whatever their order'
    del coco['categories'][0]['isthing']
    write(tmp_path, coco)
    with pytest.raises(DataError, match='category 9 lacks isthing'):
        CheckedCocoPanopticDataset(**config)


@pytest.mark.filterwarnings('error')  # MMDetection's __del__ would raise after a failure
def test_the_evaluators_files(config, tmp_path, monkeypatch):
    root = config['data_root']
    with pytest.raises(MissingFileError, match='/val.json: file not found; set ann_file of val_evaluator'):
        CheckedCocoPanopticMetric(f'{root}val.json', f'{root}segments')
    with pytest.raises(MissingFileError, match='/none: folder not found; set seg_prefix of'):
        CheckedCocoPanopticMetric(f'{root}train.json', seg_prefix=f'{root}none')
    monkeypatch.setattr(coco_panoptic, 'find_spec', lambda name: None)
    with pytest.raises(ConfigError, match='^CheckedCocoPanopticMetric needs panopticapi'):
        CheckedCocoPanopticMetric(f'{root}train.json')


class Loop(BaseLoop):
    def __init__(self, metainfo):
        self.dataloader = SimpleNamespace(dataset=SimpleNamespace(metainfo=metainfo))
        self.evaluator = SimpleNamespace(metrics=[])

    def run(self):
        pass


def check(model, train=METAINFO, val=METAINFO):
    loops = dict(_train_loop=Loop(train), _val_loop=Loop(val), _test_loop=dict(type='TestLoop'))
    CheckClassesHook().before_run(SimpleNamespace(model=model, **loops))


def model_of(name, **options):
    init_default_scope('mmdet')
    cfg = Config.fromfile(ROOT / f'configs/{name}.py')
    cfg.merge_from_dict(options)
    with torch.device('meta'):
        return MODELS.build(cfg.model)


def test_heads_of_panoptic_fpn():
    options = {f'model.roi_head.{head}.num_classes': 2 for head in ('bbox_head', 'mask_head')}
    for head in ('semantic_head', 'panoptic_fusion_head'):
        options.update({f'model.{head}.num_things_classes': 2, f'model.{head}.num_stuff_classes': 1})
    model = model_of('panoptic_fpn_r50_1x', **options)
    check(model)
    with pytest.raises(ConfigError, match='^metainfo.classes of train_dataloader.dataset and of val_data'):
        check(model, val=dict(METAINFO, classes=('disc', 'box', 'sea')))
    with pytest.raises(ConfigError) as error:
        options['model.semantic_head.num_stuff_classes'] = 53
        options['model.roi_head.mask_head.num_classes'] = 80
        check(torch.nn.DataParallel(model_of('panoptic_fpn_r50_1x', **options)))
    assert str(error.value) == (
        'model.roi_head.mask_head.num_classes=80 (should be 2), '
        'model.semantic_head.num_stuff_classes=53 (should be 1): '
        'train_dataloader.dataset has 2 thing and 1 stuff classes (metainfo.classes); set them in model'
    )


def test_heads_of_mask2former_of_things_alone():
    with pytest.raises(ConfigError) as error:
        check(model_of('mask2former_instance_focal_tiny_50e'), *[dict(classes=('disc', 'box'))] * 2)
    assert 'model.panoptic_head.num_things_classes=80 (should be 2)' in str(error.value)
    assert 'len(model.panoptic_head.loss_cls.class_weight)=81 (should be 3)' in str(error.value)
    assert 'num_stuff_classes' not in str(error.value)


# Bad data


def test_images_with_bad_segments_are_left_out(config, coco, tmp_path):
    coco['annotations'][0]['segments_info'][1]['category_id'] = 4
    write(tmp_path, coco)
    dataset = CheckedCocoPanopticDataset(**config, bad_data='skip')
    assert [dataset.get_data_info(index)['img_id'] for index in range(len(dataset))] == [2]
    with pytest.raises(DataError, match='segment 70000 of image 1 has category_id 4, which is not'):
        CheckedCocoPanopticDataset(**config, bad_data='skip', test_mode=True)


@pytest.mark.parametrize(
    'change, sentence',
    [
        (dict(bbox=[1, 2, float('nan'), 4]), r'segment 70000 of image 1 has bbox \[1, 2, nan, 4\] and area 1280'),
        (dict(id=700), 'image 1 has a segment with the id 700; write a unique integer'),
        (dict(id=[1]), r'image 1 has a segment with the id \[1\]'),
    ],
)
def test_more_wrong_segments(config, coco, tmp_path, change, sentence):
    coco['annotations'][0]['segments_info'][1].update(change)
    write(tmp_path, coco)
    with pytest.raises(DataError, match=sentence):
        CheckedCocoPanopticDataset(**config)


@pytest.mark.parametrize('content', [b'', b'no image', np.zeros((32, 41, 3), np.uint8), None])
def test_a_png_of_segments_that_is_damaged_while_training(config, tmp_path, content):
    stops, skips = (CheckedCocoPanopticDataset(**config, bad_data=policy) for policy in ('stop', 'skip'))
    path = next(path for path in tmp_path.rglob('1.png'))
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        cv2.imwrite(str(path), content)
    sentence = r': 41 x 32 px, but its' if isinstance(content, np.ndarray) else r' \(image 1\): not'
    with pytest.raises((DataError, MissingFileError), match=f'^{path}{sentence}'):
        stops[0]
    assert skips[0]['data_samples'].img_id == 2 and str(path) in skips[0]['data_samples'].skipped[0]


def test_the_categories_of_segments_have_to_be_named(config):
    config['metainfo'] = dict(classes=('disc', 'sky'), thing_classes=('disc',), stuff_classes=('sky',))
    with pytest.raises(ConfigError, match="^metainfo.classes lacks 'box', of which .*/train.json has segments; "):
        CheckedCocoPanopticDataset(**config)


def test_the_check_of_the_data_set_lists_all(config, coco, tmp_path):
    coco['annotations'][0]['segments_info'][0]['bbox'] = None
    coco['annotations'][1]['segments_info'][0]['category_id'] = 4
    write(tmp_path, coco)
    issues, checks = CheckedCocoPanopticDataset(**config, lazy_init=True).find_issues()
    assert [(issue.kind, issue.image, issue.annotation) for issue in issues if issue.level == 'error'] == [
        ('invalid box', 1, 700),
        ('unknown category', 2, 700),
    ]
    assert len(checks) == 4
    config['metainfo'] = dict(METAINFO, stuff_classes=())
    issues, _ = CheckedCocoPanopticDataset(**config, lazy_init=True).find_issues()
    assert {issue.kind for issue in issues} >= {'invalid box', 'classes'}
