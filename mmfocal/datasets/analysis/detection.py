"""Figures of a tested detector."""

from dataclasses import dataclass, field

import numpy as np
from pycocotools.cocoeval import COCOeval

from mmfocal.datasets.analysis.matching import MAX_DETS, Matches, iterate_matches
from mmfocal.datasets.analysis.tide import KINDS, ErrorAnalysis, ImageErrors, analyse_errors, find_errors
from mmfocal.datasets.coco_evaluation import CocoEvaluation

AREAS = {'APs': 1, 'APm': 2, 'APl': 3}  # indices of COCO's ranges of areas
THRESHOLDS = {'AP50': 0.5, 'AP75': 0.75}
IOU_THR = 0.5  # of the confusion matrix and the worst images


@dataclass
class ImageErrorCounts:
    """Right and wrong detections of an image, at a score threshold.

    Args:
        number: Of the image, from 0.
        path: Its file; empty if unknown.
        correct: Detections that match an annotation of their class.
        wrong: Other detections, without those in ignored regions.
        missed: Annotations without a match.
        kinds: TIDE's kind → number, of the wrong detections.
    """

    number: int
    path: str
    correct: int
    wrong: int
    missed: int
    kinds: dict[str, int]

    @property
    def f1(self) -> float:
        """F1 of the image; 1 if it has neither detections nor annotations."""
        total = 2 * self.correct + self.wrong + self.missed
        return 2 * self.correct / total if total else 1.0


@dataclass
class DetectionAnalysis:
    """Figures of boxes or masks, 0 to 1; None where there are no annotations.

    Args:
        overall: 'AP', 'AP50', 'AP75', 'APs', 'APm', 'APl'.
        classes: Name, those figures, and the numbers of annotations and of detections, of each class.
        curves: IoU ('0.50', '0.75') → 'mean' and each class's name → precisions at 101 recalls, or None.
        errors: TIDE's.
        confusion: Number of annotations (rows; the last row: background) by detected class (columns; the last: missed).
        images: All images, the worst first.
        score_thr: Of `confusion` and `images`.
    """

    overall: dict[str, float | None]
    classes: list[dict]
    curves: dict[str, dict[str, list[float] | None]]
    errors: ErrorAnalysis
    confusion: np.ndarray
    images: list[ImageErrorCounts] = field(repr=False)
    score_thr: float = 0.3


def analyse_detections(evaluation: CocoEvaluation, metric: str, score_thr: float = 0.3) -> DetectionAnalysis:
    """Computes the figures of a report.

    Average precisions are means of COCO's table of precisions.

    Args:
        evaluation: Of `CheckedCocoMetric`.
        metric: 'bbox' or 'segm'.
        score_thr: Lowest score of a detection in the confusion matrix and the ranking of images.
    """
    names = list(evaluation.classes)
    table = evaluation.tables[metric]
    found: list[tuple[Matches, ImageErrors]] = []
    confusion = np.zeros((len(names) + 1, len(names) + 1), int)
    images = []
    for number, matches in enumerate(iterate_matches(evaluation, metric, IOU_THR)):
        errors = find_errors(matches)
        found.append((matches, errors))
        add_to_confusion(confusion, matches, score_thr)
        images.append(_count(number, evaluation.image_paths[number], matches, errors, score_thr))
    annotations = np.zeros(len(names), int)
    detections = np.zeros(len(names), int)
    for matches, _ in found:
        annotations += np.bincount(matches.truth_labels, minlength=len(names))
        detections += np.bincount(matches.labels, minlength=len(names))
    classes = [
        dict(name=name, **average_precisions(table, label), annotations=int(count), detections=int(number))
        for label, (name, count, number) in enumerate(zip(names, annotations, detections))
    ]
    return DetectionAnalysis(
        average_precisions(table),
        classes,
        precision_curves(table, names),
        analyse_errors(found, len(names)),
        confusion,
        sorted(images, key=lambda image: (image.f1, -image.wrong - image.missed)),
        score_thr,
    )


def average_precisions(table: COCOeval, label: int | None = None) -> dict[str, float | None]:
    """Returns COCO's six average precisions of a class, or of all.

    Args:
        table: An evaluation with its table of precisions.
        label: The class. Default: the mean over classes.
    """
    precision = _precisions(table)[:, :, slice(None) if label is None else label]
    values = {'AP': _mean(precision[..., 0])}
    for name, iou in THRESHOLDS.items():
        values[name] = _mean(precision[np.isclose(table.params.iouThrs, iou)][..., 0])
    return {**values, **{name: _mean(precision[..., area]) for name, area in AREAS.items()}}


def precision_curves(table: COCOeval, names: list[str]) -> dict[str, dict[str, list[float] | None]]:
    """Returns the precisions at COCO's 101 recalls, for the IoUs of 0.50 and 0.75 as far as they were evaluated."""
    curves = {}
    for iou in THRESHOLDS.values():
        at = np.flatnonzero(np.isclose(table.params.iouThrs, iou))
        if not len(at):
            continue
        precision = _precisions(table)[at[0], :, :, 0]  # recall, class
        valid = (precision > -1).all(0)
        mean = precision[:, valid].mean(1).tolist() if valid.any() else None
        by_class = {name: precision[:, k].tolist() if valid[k] else None for k, name in enumerate(names)}
        curves[f'{iou:.2f}'] = {'mean': mean, 'classes': by_class}
    return curves


def add_to_confusion(confusion: np.ndarray, matches: Matches, score_thr: float) -> None:
    """Adds an image to a confusion matrix.

    Annotations go to the detection that they match in the evaluation; what is left of both is paired whatever the
    class, by falling score; the rest is background.

    Args:
        confusion: Annotated classes × detected classes, with background last, (k + 1, k + 1).
        matches: At the IoU of the matrix.
        score_thr: Lowest score of a detection.
    """
    background = len(confusion) - 1
    left = np.ones(len(matches.truth_labels), bool)
    taken = matches.truths[(matches.scores >= score_thr) & (matches.truths >= 0)]
    left[taken] = False
    np.add.at(confusion, (matches.truth_labels[taken], matches.truth_labels[taken]), 1)
    for index in np.flatnonzero((matches.scores >= score_thr) & (matches.truths < 0) & ~matches.ignored):
        ious = np.where(left, matches.ious[index], 0)
        row = background
        if len(ious) and ious.max() >= IOU_THR:
            row = matches.truth_labels[ious.argmax()]
            left[ious.argmax()] = False
        confusion[row, matches.labels[index]] += 1
    np.add.at(confusion, (matches.truth_labels[left], background), 1)


def _count(number: int, path: str, matches: Matches, errors: ImageErrors, score_thr: float) -> ImageErrorCounts:
    kinds = errors.kinds[matches.scores >= score_thr]
    correct = int((kinds == -1).sum())
    by_kind = {name: int((kinds == kind).sum()) for kind, name in enumerate(KINDS[:-1])}
    by_kind = {name: count for name, count in by_kind.items() if count}
    return ImageErrorCounts(number, path, correct, sum(by_kind.values()), len(matches.truth_labels) - correct, by_kind)


def _precisions(table: COCOeval) -> np.ndarray:
    """Returns the precisions at COCO's number of detections: IoU, recall, class, range of areas."""
    numbers = list(table.params.maxDets)
    return table.eval['precision'][..., numbers.index(MAX_DETS) if MAX_DETS in numbers else -1]


def _mean(precision: np.ndarray) -> float | None:
    """Returns the mean of precisions, without the -1 of classes that have no annotation."""
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else None
