"""A detector that predicts the ground truth has an AP of 1, whatever the ids, orders, flags and sizes in the files."""

import json
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from mmengine.registry import init_default_scope
from pycocotools import mask as rle

from mmfocal.datasets.coco import CheckedCocoDataset
from mmfocal.datasets.coco_metric import CheckedCocoMetric
from mmfocal.errors import ConfigError, DataError, MissingFileError

NAMES = ('van', 'seat', 'tree')
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'ori_shape')),
]
WITH_TRUTH = [*PIPELINE[:2], dict(type='PackDetInputs', meta_keys=('img_id', 'ori_shape', 'instances'))]


@pytest.fixture(autouse=True)
def mmdet_scope():
    init_default_scope('mmdet')  # another test may have left another


# Ids as found in exports: from 0, negative, large, texts, fractions that are whole.
IDS = st.one_of(st.integers(-3, 10), st.integers(2**40, 2**70), st.text('ab-0', min_size=1, max_size=5), st.just(1.0))
FLAGS = st.sampled_from([0, 0, 0, 1, False, True, '0', '1', 1.0])


def unique(strategy, number):
    return st.lists(strategy, min_size=number, max_size=number, unique_by=(str, hash))


@st.composite
def annotation_files(draw):
    """A COCO file with boxes and masks of known classes."""
    num_images, num_annotations = draw(st.integers(1, 3)), draw(st.integers(1, 8))
    image_ids, annotation_ids = draw(unique(IDS, num_images)), draw(unique(IDS, num_annotations))
    category_ids, names = draw(unique(IDS, len(NAMES))), draw(st.permutations(NAMES))
    sizes = [(draw(st.integers(20, 90)), draw(st.integers(20, 90))) for _ in image_ids]
    images = [
        dict(id=image_id, file_name=f'{index}.png', width=width, height=height)
        for index, (image_id, (width, height)) in enumerate(zip(image_ids, sizes))
    ]
    annotations = []
    for annotation_id in annotation_ids:
        image = draw(st.sampled_from(images))
        width, height = draw(st.integers(2, image['width'] - 1)), draw(st.integers(2, image['height'] - 1))
        x, y = draw(st.integers(0, image['width'] - width)), draw(st.integers(0, image['height'] - height))
        outline = [[x, y, x + width, y, x + width, y + height, x, y + height]]
        kind = draw(st.sampled_from(['polygon', 'with a short one', 'compressed', 'run lengths']))
        if kind == 'with a short one':
            outline = [*outline, [x, y, x + 1, y + 1]]
        elif kind != 'polygon':
            drawn = np.zeros((image['height'], image['width']), np.uint8, order='F')
            drawn[y : y + height, x : x + width] = 1
            if kind == 'compressed':
                outline = rle.encode(drawn)
                outline['counts'] = outline['counts'].decode()
            else:
                flat = np.r_[0, drawn.ravel('F')]
                counts = np.diff(np.r_[0, np.flatnonzero(np.diff(flat)), drawn.size]).tolist()
                outline = dict(size=[image['height'], image['width']], counts=counts)
        annotation = dict(
            id=annotation_id,
            image_id=image['id'],
            category_id=draw(st.sampled_from(category_ids)),
            bbox=[x, y, width, height],
            area=draw(st.sampled_from([width * height, width * height, 1, 0, -1])),
            segmentation=outline,
        )
        for key in ('iscrowd', 'ignore'):
            if draw(st.booleans()):
                annotation[key] = draw(FLAGS)
        if draw(st.integers(0, 9)) == 0:
            annotation['bbox'] = [x, y, width, 0]
        annotations.append(annotation)
    categories = [dict(id=category_id, name=name) for category_id, name in zip(category_ids, names)]
    return dict(images=images, annotations=annotations, categories=categories)


def write(folder, content):
    for image in content['images']:
        cv2.imwrite(str(folder / image['file_name']), np.zeros((image['height'], image['width'], 3), np.uint8))
    (folder / 'val.json').write_text(json.dumps(content))
    return dict(
        ann_file='val.json', data_root=f'{folder}/', data_prefix=dict(img=''), metainfo=dict(classes=NAMES),
        pipeline=PIPELINE, test_mode=True, serialize_data=False,
    )  # fmt: skip


def predict_truth(dataset, metric):
    """Evaluates the ground truth that the data set loads as if a detector had predicted it."""
    metric.dataset_meta = dataset.metainfo
    for index in range(len(dataset)):
        sample = dataset[index]['data_samples']
        truth = sample.gt_instances
        prediction = dict(
            bboxes=truth.bboxes.tensor, labels=truth.labels, scores=torch.ones(len(truth)),
            masks=torch.from_numpy(truth.masks.masks.astype(bool)),
        )  # fmt: skip
        metric.process(None, [dict(sample.metainfo, pred_instances=prediction)])
    return metric.evaluate(len(dataset))


def learned(dataset):
    """Returns the labels of all objects that count."""
    return {
        label for index in range(len(dataset)) for label in dataset[index]['data_samples'].gt_instances.labels.tolist()
    }


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=annotation_files(), from_file=st.booleans(), max_dets=st.sampled_from([None, 200]))
def test_perfect_detections(content, from_file, max_dets):
    init_default_scope('mmdet')
    with tempfile.TemporaryDirectory() as folder:
        pipeline = PIPELINE if from_file else WITH_TRUTH
        dataset = CheckedCocoDataset(**{**write(Path(folder), content), 'pipeline': pipeline})
        metric = CheckedCocoMetric(
            f'{folder}/val.json' if from_file else None, metric=['bbox', 'segm'], classwise=True, max_dets=max_dets
        )
        metrics = predict_truth(dataset, metric)
        np.testing.assert_equal(predict_truth(dataset, metric), metrics, 'the second validation')
        labels = learned(dataset)
    expected = 1.0 if labels else -1.0
    for kind in ('bbox', 'segm'):
        for item in ('mAP', 'mAP_50', 'mAP_75'):
            assert metrics[f'coco/{kind}_{item}'] == expected, metrics
    if labels:
        for label, name in enumerate(NAMES):
            value = metrics[f'coco/{name}_precision']
            assert value == 1.0 if label in labels else np.isnan(value)


def make_file(number=4, **changes):
    """A file of one image with boxes of one class in a row."""
    annotations = [
        dict(id=i, image_id=0, category_id=7, bbox=[12 * i, 2, 10, 10], area=100, iscrowd=0,
             segmentation=[[12 * i, 2, 12 * i + 10, 2, 12 * i + 10, 12, 12 * i, 12]], **changes)
        for i in range(number)
    ]  # fmt: skip
    images = [dict(id=0, file_name='0.png', width=12 * number, height=20)]
    return dict(images=images, annotations=annotations, categories=[dict(id=7, name='van')])


def test_mmdetections_metric_fails_where_ours_does_not(tmp_path):
    """Annotation ids from 0 are what the renumbering is for."""
    config = write(tmp_path, make_file())
    dataset = CheckedCocoDataset(**config)
    theirs = predict_truth(dataset, CocoMetric(f'{tmp_path}/val.json'))
    ours = predict_truth(dataset, CheckedCocoMetric(f'{tmp_path}/val.json'))
    assert theirs['coco/bbox_mAP'] < 0.9 and ours['coco/bbox_mAP'] == 1


def test_a_missed_class_is_named(tmp_path):
    """AP stands beside the right name if categories are in another order than their ids."""
    content = make_file(2)
    content['categories'] = [dict(id=9, name='van'), dict(id=2, name='seat')]
    content['annotations'][0]['category_id'], content['annotations'][1]['category_id'] = 9, 2
    config = {**write(tmp_path, content), 'metainfo': dict(classes=('van', 'seat'))}
    dataset = CheckedCocoDataset(**config)
    metric = CheckedCocoMetric(f'{tmp_path}/val.json', classwise=True)
    metric.dataset_meta = dataset.metainfo
    sample = dataset[0]['data_samples']
    truth = sample.gt_instances[sample.gt_instances.labels == 1]
    prediction = dict(bboxes=truth.bboxes.tensor, labels=truth.labels, scores=torch.ones(1))
    metric.process(None, [dict(sample.metainfo, pred_instances=prediction)])
    metrics = metric.evaluate(1)
    assert metrics['coco/seat_precision'] == 1 and metrics['coco/van_precision'] == 0


def test_more_objects_than_coco_counts(tmp_path):
    config = write(tmp_path, make_file(150))
    dataset = CheckedCocoDataset(**config)
    file = f'{tmp_path}/val.json'
    assert predict_truth(dataset, CheckedCocoMetric(file))['coco/bbox_mAP'] < 0.7
    for kind in ('bbox', 'segm'):
        metrics = predict_truth(dataset, CheckedCocoMetric(file, metric=kind, max_dets=150))
        assert metrics[f'coco/{kind}_mAP'] == metrics[f'coco/{kind}_mAP_s'] == 1
    issues, _ = dataset.validate(make_file(150))
    (issue,) = [issue for issue in issues if issue.kind == 'many objects']
    assert 'an image has 150 objects of one class' in issue.message and 'set max_dets' in issue.message
    with pytest.raises(ConfigError, match='^max_dets=0: write a positive integer'):
        CheckedCocoMetric(file, max_dets=0)


def test_only_tested_images_count(tmp_path):
    content = make_file()
    content['images'].append(dict(id=1, file_name='1.png', width=48, height=20))
    content['annotations'].append(dict(content['annotations'][0], id=9, image_id=1))
    dataset = CheckedCocoDataset(**write(tmp_path, content), indices=1)
    assert predict_truth(dataset, CheckedCocoMetric(f'{tmp_path}/val.json'))['coco/bbox_mAP'] == 1


def test_result_files_have_the_ids_of_the_annotation_file(tmp_path):
    content = make_file()
    content['images'][0]['id'] = 'x'
    for annotation in content['annotations']:
        annotation['image_id'] = 'x'
    dataset = CheckedCocoDataset(**write(tmp_path, content))
    options = dict(metric=['bbox', 'segm'], outfile_prefix=f'{tmp_path}/out')
    assert predict_truth(dataset, CheckedCocoMetric(f'{tmp_path}/val.json', **options))['coco/segm_mAP'] == 1
    written = json.loads((tmp_path / 'out.segm.json').read_text())
    assert {(one['image_id'], one['category_id']) for one in written} == {('x', 7)} and len(written) == 4
    assert predict_truth(dataset, CheckedCocoMetric(f'{tmp_path}/val.json', format_only=True, **options)) == {}


def test_no_detections(tmp_path):
    dataset = CheckedCocoDataset(**write(tmp_path, make_file()))
    metric = CheckedCocoMetric(f'{tmp_path}/val.json')
    metric.dataset_meta = dataset.metainfo
    empty = dict(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=int), scores=torch.zeros(0))
    metric.process(None, [dict(img_id=0, ori_shape=(20, 48), pred_instances=empty)])
    assert metric.evaluate(1)['coco/bbox_mAP'] == 0


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(iscrowd='no'), "annotation 0 has iscrowd 'no' "),
        (dict(iscrowd=None), 'annotation 0 has iscrowd None '),
        (dict(ignore=[]), r'annotation 0 has ignore \[\] '),
        (dict(segmentation=[[1, 2]]), 'annotation 0 has no polygon of three points or more'),
        (dict(segmentation=[[1, 2, 3, 4]]), 'annotation 0 has no polygon of three points or more .opposite corners'),
    ],
)
def test_what_cannot_be_evaluated_is_refused(tmp_path, change, message):
    content = make_file()
    content['annotations'][0].update(change)
    config = write(tmp_path, content)
    with pytest.raises(DataError, match=message):
        CheckedCocoDataset(**config)
    with pytest.raises(DataError, match=message):
        CheckedCocoMetric(f'{tmp_path}/val.json', metric='segm')


def test_a_missing_file(tmp_path):
    with pytest.raises(MissingFileError, match='/none.json: file not found; set ann_file of val_evaluator'):
        METRICS.build(dict(type='CheckedCocoMetric', ann_file=f'{tmp_path}/none.json'))
