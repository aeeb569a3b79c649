"""The config for a folder of one's own data."""

import json
import shutil
from pathlib import Path

import pytest
from mmengine.registry import DATASETS, init_default_scope

from mmfocal import cli
from mmfocal.datasets.coco_tree import find_splits
from mmfocal.engine import read_config
from mmfocal.errors import ConfigError, DataError, MissingFileError


@pytest.fixture
def data(shapes, tmp_path, monkeypatch):
    """The shapes in a folder of their own, as a converter writes them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('FOCAL_TINY', 'none')
    shutil.copytree(shapes, tmp_path / 'site')
    return tmp_path / 'site'


def init(*words):
    args = cli.parse_args(['init-config', *words])
    args.main(args)


def test_a_detector(data, capsys):
    init('site', '--like', 'retinanet_focal_nano_shapes')
    out = capsys.readouterr().out
    assert 'site.py: retinanet_focal_nano_shapes for site' in out and 'mmfocal train site.py --auto-scale-lr' in out
    assert '8 images' in out and 'creating index' not in out
    cfg = read_config('site.py')
    classes = tuple(
        category['name'] for category in json.loads(next(data.glob('annotations/*train*')).read_text())['categories']
    )
    assert cfg.model.bbox_head.num_classes == len(classes) and cfg.train_dataloader.dataset.metainfo.classes == classes
    init_default_scope('mmdet')
    for name, number in (('train', 8), ('val', 4), ('test', 4)):
        assert len(DATASETS.build(cfg[f'{name}_dataloader'].dataset)) == number
    assert Path(cfg.val_evaluator.ann_file).is_file() and cfg.test_evaluator == cfg.val_evaluator
    with pytest.raises(ConfigError, match='site.py: exists'):
        init('site', '--like', 'retinanet_focal_nano_shapes')


@pytest.mark.parametrize(
    'like, found',
    [
        ('cascade_mask_rcnn_focal_nano_shapes', lambda model: [head.num_classes for head in model.roi_head.bbox_head]),
        ('sparse_rcnn_focal_nano_shapes', lambda model: [head.num_classes for head in model.roi_head.bbox_head]),
        (
            'mask_rcnn_focal_nano_shapes',
            lambda model: [model.roi_head.bbox_head.num_classes, model.roi_head.mask_head.num_classes],
        ),
        (
            'mask2former_instance_focal_tiny_50e',
            lambda model: [model.panoptic_head.num_things_classes, len(model.panoptic_head.loss_cls.class_weight) - 1],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)
def test_all_heads(data, like, found):
    for path in (data / 'annotations').glob('instances_*.json'):  # one class more
        content = json.loads(path.read_text())
        content['categories'].append(dict(id=99, name='more'))
        path.write_text(json.dumps(content))
    init('site', '--like', like, '--out', 'own.py')
    assert set(found(read_config('own.py').model)) == {5}


def test_a_segmentor(data, capsys):
    for split in ('train', 'val'):
        (data / 'maps' / split).mkdir(parents=True)
    labels = next(path for path in sorted(data.rglob('*')) if path.is_dir() and 'semantic_train' in path.name)
    images = data / next(path.name for path in data.iterdir() if path.name.startswith('train'))
    for split, number in (('train', 6), ('val', 2)):
        names = sorted(images.glob('*.png'))[:number] or sorted(images.glob('*.jpg'))[:number]
        for image in names:
            for kind, source in (('images', image), ('labels', labels / f'{image.stem}.png')):
                (data / 'maps' / split / kind).mkdir(exist_ok=True)
                shutil.copy(source, data / 'maps' / split / kind)
    with pytest.raises(ConfigError, match='no classes.txt; name the classes'):
        init('site/maps', '--like', 'semantic_fpn_focal_nano_shapes')
    init('site/maps', '--like', 'semantic_fpn_focal_nano_shapes', '--classes', *'abcdef')
    cfg = read_config('maps.py')
    assert cfg.model.decode_head.num_classes == 6 and cfg.train_dataloader.dataset.type == 'LabelMapDataset'
    with pytest.raises(MissingFileError, match='no images and label maps for train'):
        init('site/maps/train', '--like', 'semantic_fpn_focal_nano_shapes', '--out', 'x.py')


def test_folders_of_roboflow(tmp_path, data):
    """An annotation file in each image folder."""
    annotations = {path.stem: path for path in (data / 'annotations').glob('instances_*.json')}
    folders = {'train': 'train', 'val': 'valid'}
    for split, folder in folders.items():
        images = next(path for path in data.iterdir() if path.name.startswith(split))
        shutil.copytree(images, tmp_path / 'rf' / folder)
        name = next(name for name in annotations if split in name)
        shutil.copy(annotations[name], tmp_path / 'rf' / folder / '_annotations.coco.json')
    found = find_splits(tmp_path / 'rf')
    assert {name: (split.ann_file, split.images) for name, split in found.items()} == dict(
        train=('train/_annotations.coco.json', 'train/'), val=('valid/_annotations.coco.json', 'valid/')
    )


def test_what_is_ambiguous_is_asked(data):
    train = next((data / 'annotations').glob('*train*.json'))
    shutil.copy(train, data / 'annotations/more_train.json')
    with pytest.raises(DataError, match='may be for train; choose one with --train FILE'):
        find_splits(data)
    found = find_splits(data, dict(train='annotations/more_train.json'))
    assert found['train'].ann_file == 'annotations/more_train.json'
    images = next(path for path in data.iterdir() if path.name.startswith('train'))
    shutil.copytree(images, data / 'train_again')
    with pytest.raises(DataError, match='choose with --train-images DIR'):
        find_splits(data, dict(train='annotations/more_train.json'))
    found = find_splits(data, dict(train='annotations/more_train.json'), dict(train='train_again'))
    assert found['train'].images == 'train_again/'


def test_what_is_missing(data, tmp_path):
    with pytest.raises(MissingFileError, match='nowhere: folder not found'):
        find_splits(tmp_path / 'nowhere')
    for path in (data / 'annotations').glob('*val*.json'):
        path.rename(data / 'annotations/hidden')
    with pytest.raises(MissingFileError, match='no annotation file for val; it holds .*train.* --val FILE'):
        find_splits(data)
    (data / 'annotations/hidden').rename(data / 'annotations/instances_val2017.json')
    images = {path.name[:3]: path for path in data.iterdir() if path.is_dir()}
    shutil.rmtree(images['val'])
    with pytest.raises(DataError, match='only train.* has files of the names in .*; if they are its images, add --val'):
        find_splits(data)
    next(images['tra'].iterdir()).unlink()
    with pytest.raises(MissingFileError, match='name it with --train-images DIR'):
        find_splits(data)


def test_classes_differ(data):
    path = next((data / 'annotations').glob('*val*.json'))
    content = json.loads(path.read_text())
    content['categories'][0]['name'] = 'other'
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match='differ in classes .*other'):
        find_splits(data)


@pytest.mark.parametrize(
    'words, message',
    [
        (['--like', 'panoptic_fpn_focal_tiny_1x'], 'needs annotations of segments'),
        (['--like', 'retinanet_focal_nano_shapes', '--classes', 'a'], 'the annotation files have the classes'),
        (['--like', 'retinanet_focal_nano_shapes', '--out', 'a.b.py'], 'no other dot'),
        (
            ['--like', 'mask_rcnn_focal_nano_shapes', '--out', 'boxes.py'],
            'has objects without; choose a detector of boxes',
        ),
    ],
)
def test_configs_that_do_not_fit(data, words, message):
    if 'boxes.py' in words:
        for path in (data / 'annotations').glob('instances_*.json'):
            content = json.loads(path.read_text())
            for entry in content.get('annotations', []):
                entry.pop('segmentation', None)
            path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=message):
        init('site', *words)
    assert not list(Path().glob('*.py'))


def test_nothing_stays_of_a_config_whose_data_are_bad(data):
    path = next((data / 'annotations').glob('*train*.json'))
    content = json.loads(path.read_text())
    content['annotations'][0]['category_id'] = 77
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match='category_id 77'):
        init('site', '--like', 'retinanet_focal_nano_shapes')
    assert not list(Path().glob('*.py'))
