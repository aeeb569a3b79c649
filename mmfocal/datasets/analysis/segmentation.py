"""Figures of a tested segmentor."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from mmengine.evaluator import BaseMetric


@dataclass
class ImageIoU:
    """An image, its mean IoU and, of the worst ones, its label maps.

    Args:
        path: Its file.
        iou: Mean over the classes in its label map or its prediction, 0 to 1; NaN if all pixels are ignored.
        label_map, prediction: PNG files; None if the image is not among the worst.
    """

    path: str
    iou: float
    label_map: bytes | None = None
    prediction: bytes | None = None


@dataclass
class SegmentationAnalysis:
    """Figures of a segmentor, 0 to 1; None where there are no pixels.

    Args:
        overall: 'mIoU', 'mAcc', 'aAcc'.
        classes: Name, 'IoU', 'Acc' and the number of annotated pixels of each class.
        confusion: Number of pixels, annotated classes × predicted classes.
        images: All images, the worst first.
    """

    overall: dict[str, float | None]
    classes: list[dict]
    confusion: np.ndarray
    images: list[ImageIoU]


class ConfusionMetric(BaseMetric):
    """Confusion matrix of label maps, and the images with the lowest mean IoU.

    Gives no figures to the log; `analysis` has them after the evaluation, in the main process.

    Args:
        ignore_index: Label of pixels that do not count.
        num_worst: Number of images whose label maps are kept for pictures.
    """

    def __init__(self, ignore_index: int = 255, num_worst: int = 20):
        super().__init__()
        self.ignore_index, self.num_worst = ignore_index, num_worst
        self.analysis: SegmentationAnalysis | None = None

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Counts the pixels of a batch."""
        number = len(self.dataset_meta['classes'])
        for sample in data_samples:
            predicted = sample['pred_sem_seg']['data'].squeeze().cpu().numpy().astype(np.int64)
            labels = sample['gt_sem_seg']['data'].squeeze().cpu().numpy().astype(np.int64)
            valid = (labels != self.ignore_index) & (labels < number) & (predicted < number)
            counts = np.bincount(labels[valid] * number + predicted[valid], minlength=number**2)
            cells = np.flatnonzero(counts)
            ious, _ = _ratios(counts.reshape(number, number))
            iou = float(np.nanmean(ious)) if len(cells) else np.nan
            image = ImageIoU(sample['img_path'], iou, _png(labels), _png(predicted))
            self.results.append((cells, counts[cells], image))
        with_maps = [image for *_, image in self.results if image.label_map]
        for image in worst_first(with_maps)[self.num_worst :]:
            image.label_map = image.prediction = None

    def compute_metrics(self, results: list) -> dict:
        """Sums what all processes counted."""
        names = list(map(str, self.dataset_meta['classes']))
        confusion = np.zeros(len(names) ** 2, np.int64)
        for cells, counts, _ in results:
            confusion[cells] += counts
        self.analysis = analyse_segmentation(confusion.reshape(len(names), -1), names, [image for *_, image in results])
        return {}


def analyse_segmentation(confusion: np.ndarray, names: Sequence[str], images: list[ImageIoU]) -> SegmentationAnalysis:
    """Computes the figures of a confusion matrix.

    Args:
        confusion: Number of pixels, annotated classes × predicted classes, (k, k).
        names: Of the classes.
        images: In any order.
    """
    ious, accuracies = _ratios(confusion)
    total = confusion.sum()
    overall = dict(
        mIoU=_number(np.nanmean(ious)) if total else None,
        mAcc=_number(np.nanmean(accuracies)) if total else None,
        aAcc=_number(np.trace(confusion) / total) if total else None,
    )
    classes = [
        dict(name=name, IoU=_number(iou), Acc=_number(accuracy), pixels=int(pixels))
        for name, iou, accuracy, pixels in zip(names, ious, accuracies, confusion.sum(1))
    ]
    return SegmentationAnalysis(overall, classes, confusion, worst_first(images))


def worst_first(images: list[ImageIoU]) -> list[ImageIoU]:
    """Sorts images by their mean IoU, those without one last."""
    return sorted(images, key=lambda image: (np.isnan(image.iou), image.iou))


def _ratios(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the IoU and the accuracy of each class, NaN where there are no pixels."""
    right, annotated, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    with np.errstate(divide='ignore', invalid='ignore'):
        return right / (annotated + predicted - right), right / annotated


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _png(label_map: np.ndarray) -> bytes:
    return cv2.imencode('.png', label_map.astype(np.uint16))[1].tobytes()
