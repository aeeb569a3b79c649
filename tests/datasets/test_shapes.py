import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from mmfocal.datasets import shapes
from mmfocal.datasets.shapes import CLASSES, SMALLEST, make_shapes
from mmfocal.errors import DataError, UserError

ROOT = Path(__file__).parents[2]
NUM = dict(train=60, val=20)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data') / 'shapes'
    assert make_shapes(folder, NUM['train'], NUM['val'], seed=5, size=(64, 96))
    return folder


def load(folder, split):
    return COCO(folder / 'annotations' / f'instances_{split}2017.json')


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.mark.parametrize('split', ['train', 'val'])
def test_images_are_as_listed(data, split):
    coco = load(data, split)
    assert len(coco.imgs) == NUM[split]
    for image in coco.imgs.values():
        pixels = cv2.imread(str(data / f'{split}2017' / image['file_name']))
        assert pixels.shape == (image['height'], image['width'], 3)
        assert all(64 <= side <= 96 for side in pixels.shape[:2])
    sides = [(image['height'], image['width']) for image in coco.imgs.values()]
    assert any(h > w for h, w in sides) and any(h < w for h, w in sides)


@pytest.mark.parametrize('split', ['train', 'val'])
def test_annotations_agree_with_masks_and_label_maps(data, split):
    coco = load(data, split)
    assert [category['name'] for category in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    assert sorted(coco.anns) == list(range(1, len(coco.anns) + 1))
    for image_id, image in coco.imgs.items():
        name = f'semantic_{split}2017/{Path(image["file_name"]).stem}.png'
        label_map = cv2.imread(str(data / 'annotations' / name), cv2.IMREAD_UNCHANGED)
        expected = np.zeros((image['height'], image['width']), np.uint8)
        annotations = coco.imgToAnns[image_id]
        assert 1 <= len(annotations) <= 6
        for annotation in annotations:
            mask = coco.annToMask(annotation).astype(bool)
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            width, height = np.ptp(columns) + 1, np.ptp(rows) + 1
            assert annotation['bbox'] == [columns[0], rows[0], width, height]
            assert annotation['area'] == mask.sum()
            assert annotation['iscrowd'] == 0
            assert min(width, height) >= SMALLEST
            assert max(width, height) <= 0.75 * min(mask.shape)
            assert not expected[mask].any(), 'masks overlap'
            expected[mask] = annotation['category_id']
        assert label_map.dtype == np.uint8 and np.array_equal(label_map, expected)
    names = json.loads((data / 'annotations' / 'semantic_classes.json').read_text())
    assert names == ['background', *CLASSES]


def test_objects_vary_and_stand_out(data):
    coco = load(data, 'train')
    labels = np.array([annotation['category_id'] for annotation in coco.anns.values()])
    short_sides = np.array([min(annotation['bbox'][2:]) for annotation in coco.anns.values()])
    assert np.bincount(labels, minlength=5)[1:].min() > 0.15 * len(labels)
    assert short_sides.min() < 15 and short_sides.max() > 30
    for image_id, image in coco.imgs.items():
        pixels = cv2.imread(str(data / 'train2017' / image['file_name'])).astype(float)
        masks = [coco.annToMask(annotation).astype(bool) for annotation in coco.imgToAnns[image_id]]
        ground = np.median(pixels[~np.any(masks, 0)], 0)
        for mask in masks:
            assert np.linalg.norm(np.median(pixels[mask], 0) - ground) > 60


def test_some_objects_are_occluded_and_none_is_lost():
    occluded = 0
    for index in range(60):
        _, owner, labels = shapes.make_image(np.random.default_rng(index), (128, 192))
        for k, label in enumerate(labels, 1):
            seen = owner == k
            hull = cv2.contourArea(cv2.convexHull(np.argwhere(seen).astype(np.int32)))
            occluded += CLASSES[label] != 'cross' and np.count_nonzero(seen) < 0.9 * hull
        assert set(np.unique(owner)) - {0} == set(range(1, len(labels) + 1))
    assert occluded >= 5


def test_same_seed_same_images_whatever_their_number(data, tmp_path):
    make_shapes(tmp_path / 'again', NUM['train'], NUM['val'], seed=5, size=(64, 96))
    assert content(tmp_path / 'again') == content(data)

    make_shapes(tmp_path / 'fewer', 3, 2, seed=5, size=(64, 96))
    make_shapes(tmp_path / 'other', 3, 2, seed=6, size=(64, 96))
    whole, fewer, other = content(data), content(tmp_path / 'fewer'), content(tmp_path / 'other')
    images = [name for name in fewer if name.endswith('.jpg')]
    assert len(images) == 5 and all(fewer[name] == whole[name] != other[name] for name in images)
    assert fewer['train2017/000000000001.jpg'] != fewer['val2017/000000000001.jpg']


def test_a_complete_data_set_is_reused_and_another_replaced(tmp_path):
    assert make_shapes(tmp_path, 4, 2, size=(64, 64))
    first = content(tmp_path)
    assert not make_shapes(tmp_path, 4, 2, size=(64, 64))
    assert make_shapes(tmp_path, 3, 2, size=(64, 64))
    assert len(load(tmp_path, 'train').imgs) == len(list((tmp_path / 'train2017').iterdir())) == 3
    assert make_shapes(tmp_path, 4, 2, size=(64, 64))
    assert content(tmp_path) == first


def test_an_interrupted_run_is_made_whole(tmp_path, monkeypatch):
    make_image, calls = shapes.make_image, []

    def interrupted(rng, size):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return make_image(rng, size)

    monkeypatch.setattr(shapes, 'make_image', interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_shapes(tmp_path, 4, 4, size=(64, 64))
    assert not list(tmp_path.glob('annotations/instances_*'))
    monkeypatch.undo()
    assert make_shapes(tmp_path, 4, 4, size=(64, 64))

    (tmp_path / 'val2017' / '000000000002.jpg').unlink()
    assert make_shapes(tmp_path, 4, 4, size=(64, 64))
    assert not make_shapes(tmp_path, 4, 4, size=(64, 64))


@pytest.mark.parametrize(
    'arguments, sentence',
    [
        (dict(num_train=0), 'num_train=0, num_val=2, seed=0: must be at least 1, 1 and 0'),
        (dict(seed=-1), 'seed=-1: must be at least'),
        (dict(size=(96, 64)), 'size=.96, 64.: must be MIN and MAX in px'),
        (dict(size=(20, 64)), 'size=.20, 64.: .* 36 <= MIN'),
    ],
)
def test_bad_numbers_are_refused(tmp_path, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        make_shapes(tmp_path / 'shapes', **{**dict(num_train=2, num_val=2), **arguments})
    assert not (tmp_path / 'shapes').exists()


def test_other_peoples_folders_are_left_alone(tmp_path):
    (tmp_path / 'annotations').mkdir()
    precious = tmp_path / 'annotations' / 'instances_train2017.json'
    precious.write_text('{}')
    with pytest.raises(DataError, match='holds other files than a shapes data set; name a new folder'):
        make_shapes(tmp_path, 2, 2)
    assert content(tmp_path) == {'annotations/instances_train2017.json': b'{}'}
    with pytest.raises(DataError, match='is a file; name a folder'):
        make_shapes(precious, 2, 2)


def test_tool(tmp_path):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, ROOT / 'tools/dataset_converters/make_shapes.py', *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=dict(PYTHONPATH=str(ROOT)),
        )

    small = (tmp_path / 'shapes', '--num-train', 3, '--num-val', 2, '--size', 64, 80, '--seed', 1)
    made = run(*small)
    assert made.returncode == 0 and made.stderr == ''
    assert made.stdout == (f'{tmp_path / "shapes"}: 3 training and 2 validation images of 64-80 px, seed 1, made\n')
    assert run(*small).stdout.endswith('already there\n')

    refused = run(tmp_path)
    assert refused.returncode == 1 and refused.stdout == ''
    assert refused.stderr == (f'error: {tmp_path}: holds other files than a shapes data set; name a new folder\n')
    assert "invalid int value: 'x'" in run(tmp_path, '--seed', 'x').stderr
