"""Figures of a report: COCO's tables, confusion matrices, the worst images."""

import sys
from pathlib import Path

import numpy as np
import pytest
from pycocotools.cocoeval import COCOeval

from mmfocal.datasets.analysis.detection import analyse_detections
from mmfocal.datasets.coco_evaluation import list_detections, load_detections

sys.path.insert(0, str(Path(__file__).parent))
from detections import make_evaluation, random_images

A, B, FAR = [10, 10, 20, 20], [60, 50, 20, 20], [90, 5, 8, 8]


def evaluate(images, num_classes, metric='bbox'):
    evaluation = make_evaluation(images, num_classes)
    found = load_detections(evaluation.truths, list_detections(evaluation.predictions, metric))
    table = COCOeval(evaluation.truths, found, metric)
    table.evaluate()
    table.accumulate()
    table.summarize()
    evaluation.tables[metric] = table
    return evaluation, table


@pytest.mark.parametrize('metric', ['bbox', 'segm'])
def test_figures_are_cocos(metric):
    evaluation, table = evaluate(random_images(3, 30, 4, crowds=0.1, decimals=1), 4, metric)
    analysis = analyse_detections(evaluation, metric)
    stats = [None if value == -1 else value for value in table.stats[:6]]
    assert list(analysis.overall.values()) == pytest.approx(stats, abs=1e-12)
    assert analysis.errors.ap50 == pytest.approx(table.stats[1], abs=1e-12)
    mean = np.mean([one['AP'] for one in analysis.classes])
    assert mean == pytest.approx(table.stats[0], abs=1e-12)
    for index, iou in ((0, '0.50'), (5, '0.75')):
        curves = analysis.curves[iou]
        assert np.mean(curves['mean']) == pytest.approx(table.stats[1 if index == 0 else 2], abs=1e-12)
        for label, one in enumerate(analysis.classes):
            assert curves['classes'][one['name']] == table.eval['precision'][index, :, label, 0, 2].tolist()
    entries = evaluation.truths.dataset['annotations']
    assert [one['annotations'] for one in analysis.classes] == [
        sum(entry['category_id'] == label and not entry['iscrowd'] for entry in entries) for label in range(1, 5)
    ]


def test_a_class_without_annotations_has_no_figures():
    evaluation, _ = evaluate([([(0, A, False)], [(0, A, 0.9), (1, FAR, 0.9)])], 2)
    analysis = analyse_detections(evaluation, 'bbox')
    assert [one['AP'] for one in analysis.classes] == pytest.approx([1.0, None])
    assert analysis.curves['0.50']['classes']['class 1'] is None
    assert analysis.overall['AP'] == pytest.approx(1) and analysis.overall['APl'] is None


def test_a_model_without_detections():
    evaluation, _ = evaluate([([(0, A, False)], []), ([], [])], 2)
    analysis = analyse_detections(evaluation, 'bbox')
    assert analysis.overall['AP'] == 0 and analysis.errors.counts['missed'] == 1
    assert analysis.confusion.tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert [image.number for image in analysis.images] == [0, 1]


def test_confusion_matrix_pairs_matches_first_and_leaves_out_crowds_and_low_scores():
    images = [
        (
            [(0, A, False), (1, B, False), (0, [30, 60, 20, 20], False), (0, [60, 10, 40, 30], True)],
            [
                (0, B, 0.9),  # another class, before the right one
                (1, [61, 50, 20, 20], 0.5),
                (1, A, 0.7),  # the only one on A
                (1, FAR, 0.6),  # background
                (0, [62, 12, 9, 9], 0.9),  # in the crowd
                (0, [30, 60, 20, 20], 0.2),  # below the threshold
            ],
        )
    ]
    evaluation, _ = evaluate(images, 2)
    analysis = analyse_detections(evaluation, 'bbox', score_thr=0.3)
    assert analysis.confusion.tolist() == [[0, 1, 1], [0, 1, 0], [1, 1, 0]]


def test_the_worst_images_come_first():
    good = ([(0, A, False)], [(0, A, 0.9)])
    images = [
        good,
        ([(0, A, False), (0, B, False)], [(0, A, 0.9)]),
        ([], []),
        ([(0, A, False)], [(0, FAR, 0.9), (1, A, 0.8), (0, B, 0.1)]),
        ([(0, A, False)], []),
    ]
    evaluation, _ = evaluate(images, 2)
    found = analyse_detections(evaluation, 'bbox').images
    assert [image.number for image in found] == [3, 4, 1, 0, 2]
    assert found[0].kinds == dict(background=1, classification=1) and found[0].missed == 1
    assert [image.f1 for image in found] == pytest.approx([0, 0, 2 / 3, 1, 1])
