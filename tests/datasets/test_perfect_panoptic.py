"""A model that predicts the panoptic segments has a PQ of 100, whatever the ids, orders and flags in the files."""

import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmdet.evaluation.functional import panoptic_utils
from mmdet.evaluation.metrics import coco_panoptic_metric
from mmengine.registry import init_default_scope

from mmfocal.datasets import coco_panoptic
from mmfocal.datasets.coco_panoptic import CheckedCocoPanopticDataset, CheckedCocoPanopticMetric
from mmfocal.errors import DataError

NAMES, THINGS = ('van', 'seat', 'sky'), 2
METAINFO = dict(classes=NAMES, thing_classes=NAMES[:THINGS], stuff_classes=NAMES[THINGS:])


class Counts(defaultdict):
    """Sums of matches by category, as the package panopticapi, which is not on PyPI, has them."""

    def __init__(self):
        super().__init__(lambda: SimpleNamespace(iou=0.0, tp=0, fp=0, fn=0))

    def __iadd__(self, other):
        for key, counts in other.items():
            for name, value in vars(counts).items():
                setattr(self[key], name, getattr(self[key], name) + value)
        return self

    def pq_average(self, categories, isthing):
        by_class = {}
        for key, category in categories.items():
            one = self[key]
            total = one.tp + 0.5 * (one.fp + one.fn)
            if total and isthing in (None, bool(category['isthing'])):
                by_class[key] = dict(pq=one.iou / total, sq=one.iou / max(one.tp, 1), rq=one.tp / total)
        means = {name: np.mean([one[name] for one in by_class.values() or [dict.fromkeys(('pq', 'sq', 'rq'), 0)]])
                 for name in ('pq', 'sq', 'rq')}  # fmt: skip
        return dict(means, n=len(by_class)), by_class


def id2rgb(ids):
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1)


def rgb2id(pixels):
    return pixels.astype(int) @ [1, 256, 65536]


@pytest.fixture(autouse=True)
def panopticapi(monkeypatch):
    """A stand-in for a machine without the package."""
    package, utils = ModuleType('panopticapi'), ModuleType('panopticapi.utils')
    utils.id2rgb, utils.rgb2id = id2rgb, rgb2id
    monkeypatch.setitem(sys.modules, 'panopticapi', package)
    monkeypatch.setitem(sys.modules, 'panopticapi.utils', utils)
    monkeypatch.setattr(coco_panoptic, 'find_spec', lambda name: True)
    for module in (panoptic_utils, coco_panoptic_metric):
        for name, value in dict(panopticapi=package, id2rgb=id2rgb, rgb2id=rgb2id, VOID=0, PQStat=Counts).items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(panoptic_utils, 'rgb2id', rgb2id)


IDS = st.one_of(st.integers(-3, 10), st.integers(2**40, 2**60), st.text('ab', min_size=1, max_size=4))


@st.composite
def panoptic_files(draw):
    """A panoptic file, and the ids of segments at each pixel of its images."""
    category_ids = draw(st.lists(IDS, min_size=3, max_size=3, unique_by=(str, hash)))
    image_ids = draw(st.lists(IDS, min_size=1, max_size=2, unique_by=(str, hash)))
    id_of = dict(zip(NAMES, category_ids))
    images, annotations, maps = [], [], []
    for index, image_id in enumerate(image_ids):
        images.append(dict(id=image_id, file_name=f'{index}.png', width=24, height=16))
        pixels, segments = np.zeros((16, 24), int), []
        for column in range(draw(st.integers(1, 4))):
            number, name = 1000 * index + 7 * column + 5, draw(st.sampled_from(NAMES))
            if name == 'sky' and any(segment['category_id'] == id_of['sky'] for segment in segments):
                continue
            pixels[2:14, 6 * column : 6 * column + 5] = number
            segments.append(
                dict(id=number, category_id=id_of[name], bbox=[6 * column, 2, 5, 12], area=60,
                     **draw(st.sampled_from([{}, dict(iscrowd=0), dict(iscrowd='0'), dict(iscrowd=False)])))
            )  # fmt: skip
        maps.append(pixels)
        annotations.append(dict(image_id=image_id, file_name=f'{index}.png', segments_info=segments))
    categories = [
        dict(id=id_of[name], name=name, isthing=int(name in NAMES[:THINGS])) for name in draw(st.permutations(NAMES))
    ]
    return dict(images=images, categories=categories, annotations=annotations), maps


def write(root, content, maps):
    for index, pixels in enumerate(maps):
        cv2.imwrite(str(root / f'{index}.png'), np.full((16, 24, 3), 9, np.uint8))
        (root / 'segments').mkdir(exist_ok=True)
        cv2.imwrite(str(root / f'segments/{index}.png'), id2rgb(pixels)[..., ::-1].astype(np.uint8))
    (root / 'val.json').write_text(json.dumps(content))
    return CheckedCocoPanopticDataset(
        ann_file='val.json', data_root=f'{root}/', data_prefix=dict(img='', seg='segments/'), metainfo=METAINFO,
        pipeline=[], test_mode=True, serialize_data=False,
    )  # fmt: skip


def predict_truth(root, dataset, maps):
    metric = CheckedCocoPanopticMetric(f'{root}/val.json', f'{root}/segments', classwise=True)
    metric.dataset_meta = dataset.metainfo
    for info, pixels in zip(map(dataset.get_data_info, range(len(dataset))), maps):
        predicted = np.full(pixels.shape, len(NAMES))  # no class
        for index, segment in enumerate(info['segments_info'], 1):
            predicted[pixels == segment['id']] = segment['category'] + 1000 * index
        sample = dict(img_id=info['img_id'], img_path=info['img_path'], ori_shape=(16, 24))
        sample.update(seg_map_path=info['seg_map_path'], segments_info=info['segments_info'])
        metric.process(None, [dict(sample, pred_panoptic_seg=dict(sem_seg=torch.from_numpy(predicted)[None]))])
    return metric.evaluate(len(dataset))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(file=panoptic_files())
def test_perfect_segments(file):
    init_default_scope('mmdet')
    with tempfile.TemporaryDirectory() as folder:
        dataset = write(Path(folder), *file)
        metrics = predict_truth(folder, dataset, file[1])
    assert metrics['coco_panoptic/PQ'] == pytest.approx(100), metrics


def make_file():
    segments = [
        dict(id=5, category_id=3, bbox=[0, 2, 5, 12], area=60), dict(id=9, category_id=3, bbox=[6, 2, 5, 12], area=60)
    ]  # fmt: skip
    pixels = np.zeros((16, 24), int)
    pixels[2:14, :5], pixels[2:14, 6:11] = 5, 9
    categories = [
        dict(id=index, name=name, isthing=int(name != 'sky')) for index, name in enumerate(reversed(NAMES), 1)
    ]
    images = [dict(id='x', file_name='0.png', width=24, height=16)]
    annotations = [dict(image_id='x', file_name='0.png', segments_info=segments)]
    return dict(images=images, categories=categories, annotations=annotations), [pixels]


def test_segments_that_training_leaves_out_are_ignored(tmp_path):
    init_default_scope('mmdet')
    content, maps = make_file()
    content['annotations'][0]['segments_info'][1]['area'] = 0
    dataset = write(tmp_path, content, maps)
    assert [len(dataset.get_data_info(0)['segments_info'])] == [1]
    assert predict_truth(tmp_path, dataset, maps)['coco_panoptic/PQ'] == pytest.approx(100)


def test_figures_of_classes_have_their_names_whatever_the_order_in_the_file(tmp_path):
    init_default_scope('mmdet')
    content, maps = make_file()
    content['annotations'][0]['segments_info'][1]['category_id'] = 2
    dataset = write(tmp_path, content, maps)
    metric = CheckedCocoPanopticMetric(f'{tmp_path}/val.json', f'{tmp_path}/segments')
    metric.dataset_meta, metric.keep_classes = dataset.metainfo, True
    (info,) = map(dataset.get_data_info, range(1))
    predicted = np.where(maps[0] == 5, 1000 + NAMES.index(NAMES[::-1][2]), len(NAMES))  # the other one is missed
    sample = dict(img_id='x', img_path=info['img_path'], ori_shape=(16, 24), seg_map_path=info['seg_map_path'])
    prediction = dict(sem_seg=torch.from_numpy(predicted)[None])
    metric.process(None, [dict(sample, segments_info=info['segments_info'], pred_panoptic_seg=prediction)])
    metric.evaluate(1)
    found = {one['name']: (one['PQ'], one['tp'], one['fn']) for one in metric.class_figures}
    assert found[NAMES[::-1][2]] == (1, 1, 0) and found[NAMES[::-1][1]] == (0, 0, 1)
    kinds = {one['name']: one['kind'] for one in metric.class_figures}
    assert all(kind == ('thing' if name in NAMES[:THINGS] else 'stuff') for name, kind in kinds.items())


@pytest.mark.parametrize('flag', ['no', None, []])
def test_other_flags_are_refused(tmp_path, flag):
    init_default_scope('mmdet')
    content, maps = make_file()
    content['annotations'][0]['segments_info'][1]['iscrowd'] = flag
    with pytest.raises(DataError, match='segment 9 of image .x. has iscrowd .*; write the number 0 or 1'):
        write(tmp_path, content, maps)
