"""A segmentor that predicts the label maps has a mean IoU of 100, and classes that it leaves out are named."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.registry import init_default_scope
from PIL import Image

from mmfocal.datasets.iou_metric import CheckedIoUMetric
from mmfocal.datasets.label_maps import LabelMapDataset

CLASSES = ('a', 'b', 'c', 'd')
PIPELINE = [dict(type='LoadImageFromFile'), dict(type='LoadCheckedAnnotations'), dict(type='PackSegInputs')]


def evaluate(metric, dataset, change=lambda labels: labels):
    metric.dataset_meta = dataset.metainfo
    for index in range(len(dataset)):
        labels = dataset[index]['data_samples'].gt_sem_seg.data
        sample = dict(img_path=dataset.get_data_info(index)['img_path'])
        metric.process(None, [dict(sample, pred_sem_seg=dict(data=change(labels)), gt_sem_seg=dict(data=labels))])
    return metric.evaluate(len(dataset))


@settings(max_examples=30, deadline=None)
@given(data=st.data(), reduce_zero_label=st.booleans())
def test_perfect_predictions(data, reduce_zero_label):
    init_default_scope('mmseg')
    values = st.sampled_from([*range(int(reduce_zero_label), 4 + int(reduce_zero_label)), 255, 0])
    dtype = data.draw(st.sampled_from([np.uint8, np.uint16]))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ('images', 'masks'):
            (root / name).mkdir()
        present = set()
        for index in range(data.draw(st.integers(1, 3))):
            height, width = data.draw(st.integers(2, 12)), data.draw(st.integers(2, 12))
            labels = np.resize(data.draw(st.lists(values, min_size=1, max_size=9)), (height, width)).astype(dtype)
            Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(root / f'images/{index}.jpg')
            Image.fromarray(labels).save(root / f'masks/{index}.png')
            present |= {int(value) for value in np.unique(labels)} - ({0, 255} if reduce_zero_label else {255})
        dataset = LabelMapDataset(
            data_root=f'{root}/', data_prefix=dict(img_path='images', seg_map_path='masks'), pipeline=PIPELINE,
            metainfo=dict(classes=CLASSES), reduce_zero_label=reduce_zero_label, test_mode=True, serialize_data=False,
        )  # fmt: skip
        metrics = evaluate(CheckedIoUMetric(), dataset)
    assert metrics['mIoU'] == 100 if present else np.isnan(metrics['mIoU'])


def test_absent_classes_are_named(config, monkeypatch):
    logged = []
    monkeypatch.setattr('mmfocal.datasets.iou_metric.print_log', lambda text, *args: logged.append(text))
    dataset = LabelMapDataset(**config, test_mode=True)
    assert evaluate(CheckedIoUMetric(), dataset)['mIoU'] == 100 and not logged
    metric = CheckedIoUMetric()
    dataset._metainfo['classes'] = ('background', 'disc', 'box', 'star')
    assert evaluate(metric, dataset)['mIoU'] == 100
    assert logged[0].startswith("1 of 4 classes have no pixel in the label maps: 'star'; means leave out")


def test_a_class_that_is_only_predicted_counts_as_0(config):
    dataset = LabelMapDataset(**config, test_mode=True)
    dataset._metainfo['classes'] = ('background', 'disc', 'box', 'star')
    metrics = evaluate(CheckedIoUMetric(), dataset, lambda labels: torch.where(labels == 2, 3, labels))
    assert metrics['mIoU'] == pytest.approx(50, abs=0.01)
