"""Which detections of an image match which annotations."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as mask_utils

from mmfocal.datasets.coco_evaluation import CocoEvaluation, scores_of

MAX_DETS = 100  # per image and class, COCO's


@dataclass
class Matches:
    """Detections and annotations of an image, without annotations that are ignored.

    Args:
        order: Indices of the detections in the model's prediction, by falling score, (n,).
        labels: Of the detections, (n,).
        scores: Of the detections, (n,).
        truth_labels: Of the annotations, (m,).
        ious: Of each detection with each annotation, (n, m).
        truths: Index of the annotation of its class that a detection matches, or -1, (n,).
        ignored: Whether a detection matches none, but lies in an ignored region of its class, (n,).
    """

    order: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    truth_labels: np.ndarray
    ious: np.ndarray
    truths: np.ndarray
    ignored: np.ndarray


def iterate_matches(evaluation: CocoEvaluation, metric: str, iou_thr: float = 0.5) -> Iterator[Matches]:
    """Yields the matches of each image.

    As in COCO's evaluation, detections choose by falling score, each the annotation of its class with the largest IoU
    among those that are left, and the first 100 of an image and class count.

    Args:
        evaluation: With annotations and predictions.
        metric: 'bbox' or 'segm'.
        iou_thr: Smallest IoU of a match.
    """
    for number, prediction in enumerate(evaluation.predictions, 1):
        scores = np.asarray(scores_of(prediction, metric), np.float64)
        order = _best(prediction['labels'], scores)
        entries = evaluation.truths.imgToAnns.get(number, [])
        regions = [_region(evaluation, entry, metric) for entry in entries]
        crowd = np.array([bool(entry['iscrowd']) for entry in entries], bool)
        truth_labels = np.array([entry['category_id'] - 1 for entry in entries], int)
        detections = _detections(prediction, order, metric)
        labels = prediction['labels'][order].astype(int)
        ious = _ious(detections, regions, crowd)
        same = labels[:, None] == truth_labels
        truths = _match(np.where(same, ious, 0)[:, ~crowd], iou_thr)
        in_crowd = (same & (ious >= iou_thr))[:, crowd].any(1)
        yield Matches(
            order,
            labels,
            scores[order],
            truth_labels[~crowd],
            ious[:, ~crowd],
            truths,
            in_crowd & (truths < 0),
        )


def _best(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Returns the indices of the detections that count, by falling score."""
    order = np.argsort(-scores, kind='stable')
    ranks = np.zeros(len(order), int)
    for label in np.unique(labels):
        chosen = labels[order] == label
        ranks[chosen] = np.arange(chosen.sum())
    return order[ranks < MAX_DETS]


def _region(evaluation: CocoEvaluation, entry: dict, metric: str) -> list | dict:
    return entry['bbox'] if metric == 'bbox' else evaluation.truths.annToRLE(entry)


def _detections(prediction: dict, order: np.ndarray, metric: str) -> np.ndarray | list[dict]:
    if metric == 'segm':
        return [prediction['masks'][index] for index in order]
    boxes = prediction['bboxes'][order].astype(np.float64)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)


def _ious(detections: np.ndarray | list[dict], regions: list, crowd: np.ndarray) -> np.ndarray:
    """Returns the IoU of each detection with each region; with a crowd, the share of the detection inside it."""
    if not len(detections) or not regions:
        return np.zeros((len(detections), len(regions)))
    if isinstance(detections, np.ndarray):
        regions = np.array(regions, np.float64)
    return mask_utils.iou(detections, regions, crowd.astype(np.uint8).tolist())


def _match(ious: np.ndarray, iou_thr: float) -> np.ndarray:
    """Returns the index of the annotation that each detection matches, or -1.

    Args:
        ious: With annotations of the detection's class, 0 with others, (n, m).
        iou_thr: Smallest IoU of a match.
    """
    truths, left = np.full(len(ious), -1), ious.copy()
    for index in np.flatnonzero((ious >= iou_thr).any(1)):
        best = left[index].argmax()
        if left[index, best] >= iou_thr:
            truths[index] = best
            left[:, best] = 0
    return truths
