"""The data sets load what MMSegmentation's load, and say what is wrong before training starts."""

import os
import pickle
import shutil

import cv2
import numpy as np
import pytest
import torch
from mmengine.fileio import HTTPBackend
from mmseg.datasets import ADE20KDataset, BaseSegDataset, CityscapesDataset
from mmseg.registry import DATASETS

from mmfocal.datasets.label_maps import CheckedADE20KDataset, CheckedCityscapesDataset, LabelMapDataset
from mmfocal.errors import ConfigError, DataError, MissingFileError

NEW = {'num_classes', 'ignore_index'}  # what LoadCheckedAnnotations goes by


def theirs(cls, config):
    pipeline = [dict(step, type=step['type'].replace('Checked', '')) for step in config['pipeline']]
    return cls(**{**config, 'pipeline': pipeline})


def labels(sample):
    return sample['data_samples'].gt_sem_seg.data


@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(test_mode=True),
        dict(serialize_data=True),
        dict(indices=2),
        dict(indices=[2, 0]),
        dict(lazy_init=True),
        dict(ann_file='split.txt'),
        dict(reduce_zero_label=True, metainfo=dict(classes=('disc', 'box', 'star'))),
    ],
    ids=str,
)
def test_sound_data_loads_as_in_mmsegmentation(config, tmp_path, options):
    (tmp_path / 'split.txt').write_text('more/c\na\n')
    expected, ours = theirs(BaseSegDataset, {**config, **options}), LabelMapDataset(**{**config, **options})
    assert len(ours) == len(expected) > 0
    assert ours.metainfo == expected.metainfo
    for i in range(len(expected)):
        info = ours.get_data_info(i)
        assert {key: value for key, value in info.items() if key not in NEW} == expected.get_data_info(i)
        assert (info['num_classes'], info['ignore_index']) == (3, 255)
        assert torch.equal(ours[i]['inputs'], expected[i]['inputs'])
        assert torch.equal(labels(ours[i]), labels(expected[i]))
        assert ours[i]['data_samples'].metainfo == expected[i]['data_samples'].metainfo


@pytest.mark.parametrize(
    'ours, expected, options',
    [
        (CheckedADE20KDataset, ADE20KDataset, dict()),
        (CheckedADE20KDataset, ADE20KDataset, dict(metainfo=dict(classes=('building', 'wall')))),
        (CheckedCityscapesDataset, CityscapesDataset, dict()),
        (CheckedCityscapesDataset, CityscapesDataset, dict(metainfo=dict(classes=['road', 'sidewalk']))),
    ],
)
def test_ade20k_and_cityscapes_load_as_in_mmsegmentation(config, ours, expected, options):
    del config['metainfo']
    config.update(img_suffix='.jpg', seg_map_suffix='.png')
    expected, ours = theirs(expected, {**config, **options}), ours(**config, **options)
    assert ours.metainfo == expected.metainfo and len(ours) == len(expected) == 3
    for i in range(3):
        assert torch.equal(labels(ours[i]), labels(expected[i]))


def test_cityscapes_layout(tmp_path, config):
    for name in ('leftImg8bit/train/jena/0_leftImg8bit.png', 'gtFine/train/jena/0_gtFine_labelTrainIds.png'):
        (tmp_path / name).parent.mkdir(parents=True)
        cv2.imwrite(str(tmp_path / name), np.tile(np.uint8([7, 18]), (8, 8)))
    config.update(metainfo=None, data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'))
    dataset = CheckedCityscapesDataset(**config)
    assert len(dataset) == 1 and labels(dataset[0]).unique().tolist() == [7, 18]


def test_they_are_built_by_name_and_travel_to_workers(config):
    for name in ('LabelMapDataset', 'mmseg.LabelMapDataset'):
        dataset = DATASETS.build(dict(type=name, **config))
        assert type(dataset) is LabelMapDataset
    assert pickle.loads(pickle.dumps(dataset)).get_data_info(1) == dataset.get_data_info(1)
    assert DATASETS.get('CheckedADE20KDataset') and DATASETS.get('CheckedCityscapesDataset')


def test_colours_are_the_same_each_time(config):
    first, second = (LabelMapDataset(**config).metainfo['palette'] for _ in range(2))
    assert first == second and len(set(map(tuple, first))) == 3
    config['metainfo']['palette'] = [[0, 0, 0], [255, 0, 0], [0, 255, 0]]
    assert LabelMapDataset(**config).metainfo['palette'] == config['metainfo']['palette']


@pytest.mark.parametrize(
    'name, dataset, metainfo',
    [
        ('ADE20K_ROOT', CheckedADE20KDataset, None),
        ('CITYSCAPES_ROOT', CheckedCityscapesDataset, None),
        ('SHAPES_ROOT', LabelMapDataset, dict(classes='ab'.split())),
        ('COCO_ROOT', LabelMapDataset, dict(classes='ab'.split())),
    ],
)
@pytest.mark.parametrize('test_mode', [False, True])
def test_a_missing_root(config, tmp_path, monkeypatch, name, dataset, metainfo, test_mode):
    monkeypatch.setenv(name, f'{tmp_path}/absent')
    config.update(data_root=f'{tmp_path}/absent/', test_mode=test_mode, metainfo=metainfo)
    sentence = f'^{name}=.*/absent/: folder not found; set {name}$'
    with pytest.raises(MissingFileError, match=sentence):
        dataset(**config)


def test_a_missing_root_that_no_variable_names(config, tmp_path, monkeypatch):
    config['data_root'] = f'{tmp_path}/absent/'
    sentence = '^data_root=.*/absent/: folder not found; correct data_root$'
    with pytest.raises(MissingFileError, match=sentence):
        LabelMapDataset(**config)
    monkeypatch.delenv('ADE20K_ROOT', raising=False)
    monkeypatch.chdir(tmp_path)
    config.update(data_root='data/ade/ADEChallengeData2016/', metainfo=None)
    sentence = '^ADE20K_ROOT=data/ade/ADEChallengeData2016/: folder not found; set ADE20K_ROOT$'
    with pytest.raises(MissingFileError, match=sentence):
        CheckedADE20KDataset(**config)


@pytest.mark.parametrize(
    'kind, key', [('images', 'data_prefix.img_path'), ('masks', 'data_prefix.seg_map_path'), ('split.txt', 'ann_file')]
)
def test_a_missing_folder(config, tmp_path, monkeypatch, kind, key):
    shutil.rmtree(tmp_path / kind, ignore_errors=True)
    config['ann_file'] = 'split.txt' if kind == 'split.txt' else ''
    sentence = f'^data_root={tmp_path}/: {kind} not found; correct data_root or {key}$'
    with pytest.raises(MissingFileError, match=sentence):
        LabelMapDataset(**config)
    monkeypatch.setenv('ADE20K_ROOT', str(tmp_path))
    sentence = f'^ADE20K_ROOT={tmp_path}/: {kind} not found; set ADE20K_ROOT or {key}$'
    with pytest.raises(MissingFileError, match=sentence):
        LabelMapDataset(**config)
    del config['data_root']
    config.update(
        data_prefix=dict(img_path=f'{tmp_path}/images', seg_map_path=f'{tmp_path}/masks'),
        ann_file=f'{tmp_path}/split.txt' if kind == 'split.txt' else '',
    )
    with pytest.raises(MissingFileError, match=f'^{tmp_path}/{kind}: not found; correct {key}$'):
        LabelMapDataset(**config)


def test_a_folder_without_images(config):
    with pytest.raises(
        DataError,
        match=r'/images: holds no image \*.jpeg, but images .jpg; correct data_prefix.img_path or img_suffix$',
    ):
        LabelMapDataset(**config, img_suffix='.jpeg')


def test_an_empty_split(config, tmp_path):
    (tmp_path / 'split.txt').write_text('')
    with pytest.raises(DataError, match='/split.txt: names no image; correct ann_file$'):
        LabelMapDataset(**config, ann_file='split.txt')


@pytest.mark.parametrize('test_mode', [False, True])
def test_missing_label_maps_are_counted(config, tmp_path, test_mode):
    (tmp_path / 'masks/b.png').unlink()
    (tmp_path / 'masks/more/c.png').unlink()
    with pytest.raises(MissingFileError, match=r'/masks/b.png: label map not found \(2 of 3 images have'):
        LabelMapDataset(**config, test_mode=test_mode)
    assert len(LabelMapDataset(**config, indices=1)) == 1, 'what is not used may be missing'


def test_missing_images_of_a_split_are_counted(config, tmp_path):
    (tmp_path / 'split.txt').write_text('a\nabsent\n')
    sentence = r'/images/absent.jpg: image not found \(1 of 2 used from .*/split.txt are missing\)'
    with pytest.raises(MissingFileError, match=sentence):
        LabelMapDataset(**config, ann_file='split.txt')


def test_linked_and_hidden_files_are_there(config, tmp_path):
    (tmp_path / 'masks/more').rename(tmp_path / 'elsewhere')
    (tmp_path / 'masks/more').symlink_to(tmp_path / 'elsewhere')
    (tmp_path / 'masks/a.png').rename(tmp_path / 'masks/.a.png')
    (tmp_path / 'images/a.jpg').rename(tmp_path / 'images/.a.jpg')
    (tmp_path / 'split.txt').write_text('.a\nmore/c\n./b\n')
    assert len(LabelMapDataset(**config, ann_file='split.txt')) == 3


def test_hidden_folders_are_not_read(config, tmp_path):
    for name in ('images/.ipynb_checkpoints/a-checkpoint.jpg', 'masks/.hidden/more/x.png'):
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copy(tmp_path / 'images/a.jpg', tmp_path / name)
    dataset = LabelMapDataset(**config)
    assert len(dataset) == 3 and dataset.find_issues()[0] == []


def test_folders_are_listed_once(config, tmp_path, monkeypatch):
    for i in range(50):
        for source in ('images/a.jpg', 'masks/a.png'):
            shutil.copy(tmp_path / source, tmp_path / source.replace('a.', f'{i:02}.'))
    listed, asked = [], []
    scandir, exists = os.scandir, os.path.exists
    monkeypatch.setattr(os, 'scandir', lambda path: listed.append(os.fspath(path)) or scandir(path))
    monkeypatch.setattr(os.path, 'exists', lambda path: asked.append(path) or exists(path))
    assert len(LabelMapDataset(**config)) == 53
    folders = ('images', 'images/more', 'masks', 'masks/more')
    assert sorted(listed) == [f'{tmp_path}/{name}' for name in folders]
    assert len(asked) < 10


def test_test_images_need_no_label_maps(config, tmp_path):
    shutil.rmtree(tmp_path / 'masks')
    del config['data_prefix']['seg_map_path']
    dataset = LabelMapDataset(**config, test_mode=True)
    assert 'gt_sem_seg' not in dataset[0]['data_samples']
    with pytest.raises(ConfigError, match=r"^data_prefix=\{'img_path': '.*'\}: name the folders of images"):
        LabelMapDataset(**config)


def test_folders_under_detections_name(config):
    config['data_prefix'] = dict(img='images')
    with pytest.raises(ConfigError, match='name the folders of images and label maps'):
        LabelMapDataset(**config, test_mode=True)


@pytest.mark.parametrize(
    'dataset, metainfo, sentence',
    [
        (LabelMapDataset, None, 'classes=None: LabelMapDataset needs the names of its classes'),
        (LabelMapDataset, dict(classes=()), r'classes=\(\): LabelMapDataset needs the names of its classes'),
        (LabelMapDataset, dict(classes='disc'), "classes='disc': LabelMapDataset needs the names of its classes"),
        (LabelMapDataset, dict(classes=('disc', 'box'), palette=[[0] * 3]), 'palette has 1 colours for 2'),
        (CheckedADE20KDataset, dict(classes=('wall', 'disc')), r"classes: 'disc' \(1 of 2\) is not a class of "),
    ],
)
@pytest.mark.parametrize('lazy_init', [False, True])
def test_wrong_classes(config, dataset, metainfo, sentence, lazy_init):
    config['metainfo'] = metainfo
    with pytest.raises(ConfigError, match='^metainfo.' + sentence):
        dataset(**config, lazy_init=lazy_init)


@pytest.mark.parametrize('content', [b'', b'no image', b'\xff\xd8\xff\xe0'])
def test_an_image_that_cannot_be_decoded(config, tmp_path, content):
    (tmp_path / 'images/b.jpg').write_bytes(content)
    dataset = LabelMapDataset(**config)
    with pytest.raises(DataError, match='/images/b.jpg: not an image, or damaged; write it again, or'):
        dataset[1]


def test_other_errors_are_not_the_images(config):
    config['pipeline'].insert(2, dict(type='RandomCrop', crop_size=(8, 8), cat_max_ratio=None))
    with pytest.raises(TypeError, match='NoneType'):
        LabelMapDataset(**config)[0]


@pytest.mark.parametrize(
    'root, backend_args',
    [
        ('http://nowhere.invalid/', None),
        ('data/nowhere/', dict(backend='http')),  # as with a backend that maps local paths to its own
    ],
)
def test_a_remote_data_set_is_left_to_its_backend(config, tmp_path, monkeypatch, root, backend_args):
    split = tmp_path / 'split.txt'
    split.write_text('a\nb\n')
    read = lambda self, url: (tmp_path / url.removeprefix(root)).read_bytes()  # noqa: E731
    monkeypatch.setattr(HTTPBackend, 'get', read)
    monkeypatch.setattr(HTTPBackend, 'get_text', lambda self, url, encoding='utf-8': split.read_text())
    data_prefix = dict(img_path=root + 'images', seg_map_path=root + 'masks')
    config.update(data_root='', data_prefix=data_prefix, ann_file=str(split))
    for step in config['pipeline'][:2]:
        step['backend_args'] = dict(backend='http')
    dataset = LabelMapDataset(**config, backend_args=backend_args)
    assert len(dataset) == 2 and dataset[1]['inputs'].shape == (3, 48, 32)


def test_images_that_the_pipeline_loads_from_a_remote_backend_are_not_looked_for(config, tmp_path):
    (tmp_path / 'split.txt').write_text('a\nabsent\n')
    config['pipeline'][0]['backend_args'] = dict(backend='http')
    assert len(LabelMapDataset(**config, ann_file='split.txt')) == 2
