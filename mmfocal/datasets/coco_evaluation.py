"""COCO's evaluation by pycocotools or, with equal figures, by the faster C++ code of faster-coco-eval."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmfocal.errors import ConfigError

BACKENDS = ('pycocotools', 'faster')


class FasterEvaluation(COCOeval):
    """pycocotools' `COCOeval` whose matching and precisions are computed by faster-coco-eval.

    `eval` has the arrays that pycocotools gives, to 1e-9; `evalImgs` and `ious` stay empty. Parameters and summaries
    are pycocotools'.
    """

    def evaluate(self) -> None:
        """Matches detections and annotations, and computes precisions and recalls."""
        from faster_coco_eval import COCOeval_faster

        settings = self.params
        evaluation = COCOeval_faster(self.cocoGt, self.cocoDt, settings.iouType)
        for name in ('imgIds', 'catIds', 'iouThrs', 'recThrs', 'maxDets', 'areaRng', 'areaRngLbl', 'useCats'):
            setattr(evaluation.params, name, getattr(settings, name))
        evaluation.evaluate()
        evaluation.accumulate()
        settings.imgIds, settings.maxDets = evaluation.params.imgIds, evaluation.params.maxDets
        self.eval = {key: np.asarray(evaluation.eval[key]) for key in ('precision', 'recall', 'scores')}

    def accumulate(self, p: object = None) -> None:
        """Does nothing, since `evaluate` has computed `eval`."""


@dataclass
class CocoEvaluation:
    """What was evaluated and with which result, for reports.

    Args:
        classes: Names by label.
        truths: Annotations as they counted: images, categories and annotations have ids from 1, and `iscrowd` marks all
            that counts neither for nor against a detection.
        predictions: One per image: `bboxes` (n, 4), xyxy in pixels of the image, `scores` (n,), `labels` (n,) and, of
            models with masks, `masks`, n of COCO's RLEs.
        image_paths: One per image; empty where unknown.
        tables: 'bbox', 'segm' → the evaluation with COCO's tables of precisions.
    """

    classes: Sequence[str]
    truths: COCO
    predictions: Sequence[dict]
    image_paths: Sequence[str]
    tables: dict[str, COCOeval] = field(default_factory=dict)


def choose_backend(name: str) -> Callable[..., COCOeval]:
    """Returns the class that evaluates.

    Args:
        name: One of `BACKENDS`.

    Raises:
        ConfigError: If there is no such backend, or its package is not installed.
    """
    if name not in BACKENDS:
        raise ConfigError(f'eval_backend={name!r}: no such backend; write {" or ".join(map(repr, BACKENDS))}')
    if name == 'pycocotools':
        return COCOeval
    if not find_spec('faster_coco_eval'):
        raise ConfigError('eval_backend: faster-coco-eval is not installed; pip install "mmfocal[faster]"')
    return FasterEvaluation


def scores_of(prediction: dict, metric: str) -> np.ndarray:
    """Returns the scores of an image's boxes ('bbox') or masks ('segm'), which some models score by themselves."""
    return prediction.get('mask_scores', prediction['scores']) if metric == 'segm' else prediction['scores']


def list_detections(predictions: Sequence[dict], metric: str) -> list[dict]:
    """Lists detections as COCO's results have them; a mask's area is not replaced by its box's.

    Args:
        predictions: As those of `CocoEvaluation`, each with `img_id`.
        metric: 'bbox' or 'segm'.
    """
    detections = []
    for prediction in predictions:
        for index, (label, score) in enumerate(zip(prediction['labels'], scores_of(prediction, metric))):
            detection = dict(image_id=prediction['img_id'], category_id=int(label) + 1, score=float(score))
            if metric == 'segm':
                detection['segmentation'] = prediction['masks'][index]
            else:
                x0, y0, x1, y1 = prediction['bboxes'][index].tolist()
                detection['bbox'] = [x0, y0, x1 - x0, y1 - y0]
            detections.append(detection)
    return detections


def load_detections(truths: COCO, detections: list[dict]) -> COCO:
    """Returns an index of detections, of which there may be none."""
    if detections:
        return truths.loadRes(detections)
    empty = COCO()
    empty.dataset = dict(images=truths.dataset['images'], categories=truths.dataset['categories'], annotations=[])
    empty.createIndex()
    return empty
