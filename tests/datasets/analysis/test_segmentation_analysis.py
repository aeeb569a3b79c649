"""The confusion matrix of label maps has the figures of MMSegmentation's IoUMetric."""

import cv2
import numpy as np
import pytest
import torch
from mmseg.evaluation import IoUMetric

from mmfocal.datasets.analysis.segmentation import ConfusionMetric

CLASSES = ('road', 'sky', 'tree', 'never')


def samples(number, seed=0):
    generator = torch.Generator().manual_seed(seed)
    found = []
    for index in range(number):
        labels = torch.randint(0, 3, (1, 9, 12), generator=generator)
        predicted = torch.where(torch.rand(labels.shape, generator=generator) < index / number, labels, 2)
        labels[0, :2] = 255
        found.append(
            dict(
                img_path=f'{index}.png',
                pred_sem_seg=dict(data=predicted),
                gt_sem_seg=dict(data=labels),
            )
        )
    return found


@pytest.fixture(scope='module')
def analysis():
    metric = ConfusionMetric(num_worst=3)
    metric.dataset_meta = dict(classes=CLASSES)
    for sample in samples(8):
        metric.process({}, [sample])
    assert metric.evaluate(8) == {}
    return metric.analysis


def test_figures_are_mmsegmentations(analysis):
    metric = IoUMetric(iou_metrics=['mIoU'])
    metric.dataset_meta = dict(classes=CLASSES)
    metric.process({}, samples(8))
    sums = [sum(parts) for parts in zip(*metric.results)]
    expected = metric.total_area_to_metrics(*sums, metrics=['mIoU'])
    assert [one['IoU'] for one in analysis.classes[:3]] == pytest.approx(expected['IoU'][:3].tolist(), abs=1e-6)
    assert [one['Acc'] for one in analysis.classes[:3]] == pytest.approx(expected['Acc'][:3].tolist(), abs=1e-6)
    assert analysis.classes[3] == dict(name='never', IoU=None, Acc=None, pixels=0)
    assert analysis.overall['mIoU'] == pytest.approx(np.nanmean(expected['IoU']), abs=1e-6)
    assert analysis.overall['aAcc'] == pytest.approx(float(expected['aAcc']), abs=1e-6)
    assert analysis.confusion.sum() == 8 * 7 * 12


def test_the_worst_images_keep_their_label_maps(analysis):
    assert [image.path for image in analysis.images[:3]] == ['0.png', '1.png', '2.png']
    assert [bool(image.label_map) for image in analysis.images] == [True] * 3 + [False] * 5
    worst = analysis.images[0]
    expected = samples(8)[0]
    for content, name in ((worst.label_map, 'gt_sem_seg'), (worst.prediction, 'pred_sem_seg')):
        decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        assert (decoded == expected[name]['data'][0].numpy()).all()


def test_an_image_that_is_all_ignored_comes_last():
    metric = ConfusionMetric()
    metric.dataset_meta = dict(classes=CLASSES)
    (sample,) = samples(1)
    sample['gt_sem_seg']['data'][:] = 255
    metric.process({}, [sample, *samples(2)])
    metric.evaluate(3)
    assert np.isnan(metric.analysis.images[-1].iou)
