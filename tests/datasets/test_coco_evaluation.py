"""faster-coco-eval gives pycocotools' figures; figures of classes stand beside their names."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from mmdet.evaluation.metrics import coco_metric
from pycocotools.cocoeval import COCOeval

from mmfocal.datasets.coco_evaluation import FasterEvaluation, list_detections, load_detections
from mmfocal.datasets.coco_metric import CheckedCocoMetric
from mmfocal.errors import ConfigError

sys.path.insert(0, str(Path(__file__).parent / 'analysis'))
from detections import HEIGHT, WIDTH, make_evaluation, random_images

EMPTY = [([], []), ([(0, [5, 5, 20, 20], False)], [])]
CASES = {
    'crowds and ties': (random_images(0, 25, 3, crowds=0.3, decimals=1), 3),
    'classes without objects': (random_images(1, 6, 12, most=1), 12),
    'no objects': (random_images(2, 5, 2, most=0), 2),
    'only crowds': (random_images(3, 10, 2, crowds=1.0), 2),
    'more than 100 of an image': (random_images(4, 3, 1, most_found=400, decimals=2), 1),
    'images without detections': (EMPTY + random_images(5, 2, 2), 2),
    'no detections': (EMPTY, 2),
}


def evaluated(kind, case, metric, **params):
    evaluation = make_evaluation(*CASES[case])
    found = load_detections(evaluation.truths, list_detections(evaluation.predictions, metric))
    result = kind(evaluation.truths, found, metric)
    for name, value in params.items():
        setattr(result.params, name, value)
    result.evaluate()
    result.accumulate()
    result.summarize()
    return result


@pytest.mark.parametrize('metric', ['bbox', 'segm'])
@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('params', [{}, dict(maxDets=[100, 300, 1000], useCats=0)], ids=['classes', 'proposals'])
def test_both_backends_give_equal_tables(case, metric, params):
    expected, found = (evaluated(kind, case, metric, **params) for kind in (COCOeval, FasterEvaluation))
    for name in ('precision', 'recall', 'scores'):
        assert expected.eval[name].shape == found.eval[name].shape
        np.testing.assert_allclose(found.eval[name], expected.eval[name], atol=1e-9, rtol=0)
    np.testing.assert_allclose(found.stats, expected.stats, atol=1e-9, rtol=0)


CLASSES = ('seat', 'van', 'tree')


def metric_of(ann_file=None, **settings):
    """A metric that has seen predictions; images, annotations and categories of a file have other ids and orders."""
    evaluation = make_evaluation(random_images(7, 12, 3, most_found=150), 3)
    images, entries = evaluation.truths.dataset['images'], evaluation.truths.dataset['annotations']
    if ann_file:
        content = dict(
            images=[dict(image, id=image['id'] - 1, file_name=f'{image["id"]}.jpg') for image in images],
            categories=[dict(id=5 * label, name=CLASSES[label]) for label in (2, 0, 1)],
            annotations=[
                dict(one, id=one['id'] - 1, image_id=one['image_id'] - 1, category_id=5 * (one['category_id'] - 1))
                for one in entries
            ],
        )
        ann_file.write_text(json.dumps(content))
    metric = CheckedCocoMetric(ann_file and str(ann_file), metric=['bbox', 'segm'], **settings)
    metric.dataset_meta = dict(classes=CLASSES)
    for number, prediction in enumerate(evaluation.predictions, 1):
        instances = [
            dict(
                bbox=[x, y, x + width, y + height],
                bbox_label=entry['category_id'] - 1,
                ignore_flag=0,
                mask=entry['segmentation'],
            )
            for entry in evaluation.truths.imgToAnns[number]
            for x, y, width, height in [entry['bbox']]
        ]
        truth = dict(img_id=number - 1, width=WIDTH, height=HEIGHT, anns=instances)
        metric.results.append((truth, dict(prediction, img_id=number - 1)))
    return metric


@pytest.mark.parametrize(
    'settings', [{}, dict(max_dets=30), dict(classwise=True)], ids=['plain', 'max_dets', 'classwise']
)
def test_the_metric_gives_equal_figures_with_both_backends(settings):
    expected = metric_of(**settings).evaluate(12)
    found = metric_of(eval_backend='faster', **settings).evaluate(12)
    assert found == expected and 0 < expected['coco/bbox_mAP'] < 1


@pytest.mark.parametrize('with_file', [False, True])
def test_figures_of_classes_stand_beside_their_names(with_file, tmp_path):
    figures = metric_of(tmp_path / 'annotations.json' if with_file else None, classwise=True).evaluate(12)
    evaluation = make_evaluation(random_images(7, 12, 3, most_found=150), 3)
    for kind in ('bbox', 'segm'):
        found = load_detections(evaluation.truths, list_detections(evaluation.predictions, kind))
        expected = COCOeval(evaluation.truths, found, kind)
        expected.evaluate()
        expected.accumulate()
        for label, name in enumerate(CLASSES):
            value = expected.eval['precision'][:, :, label, 0, -1].mean()
            assert figures[f'coco/{kind}_{name}_precision'] == pytest.approx(value, abs=6e-4)
    assert len({figures[f'coco/bbox_{name}_precision'] for name in CLASSES}) == 3


def test_mmdetections_class_is_back_after_an_evaluation():
    metric_of(eval_backend='faster').evaluate(12)
    assert coco_metric.COCOeval is COCOeval


def test_an_unknown_backend_and_a_missing_package_are_one_sentence(monkeypatch):
    with pytest.raises(ConfigError, match="^eval_backend='fast': no such backend; write 'pycocotools' or 'faster'$"):
        CheckedCocoMetric(eval_backend='fast')
    monkeypatch.setattr('mmfocal.datasets.coco_evaluation.find_spec', lambda name: None)
    with pytest.raises(
        ConfigError, match=r'^eval_backend: faster-coco-eval is not installed; pip install "mmfocal\[faster\]"$'
    ):
        CheckedCocoMetric(eval_backend='faster')
