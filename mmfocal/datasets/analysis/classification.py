"""Figures of a tested classifier."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from mmengine.evaluator import BaseMetric

MOST = 5  # k of the second accuracy


@dataclass
class LabelledImage:
    """An image, its label and what a classifier takes it for.

    Args:
        path: Its file; empty if it has none.
        number: Its index in the data set.
        label, predicted: Classes.
        score, label_score: Probabilities of the predicted class and of the label.
        among: Whether the label is among the most probable five classes.
    """

    path: str
    number: int
    label: int
    predicted: int
    score: float
    label_score: float
    among: bool

    @property
    def loss(self) -> float:
        """Cross-entropy: minus the logarithm of the label's probability."""
        return -math.log(self.label_score) if self.label_score else math.inf


@dataclass
class ClassificationAnalysis:
    """Figures of a classifier, 0 to 1; None where there are no images.

    Args:
        overall: 'top1', and 'top5' of more than five classes.
        classes: Name, 'top1' (which is the recall), 'precision', 'F1' and the numbers of images and predictions.
        confusion: Number of images, annotated × predicted classes.
        mistakes: The images whose prediction is wrong, those with the highest loss first.
    """

    overall: dict[str, float | None]
    classes: list[dict]
    confusion: np.ndarray
    mistakes: list[LabelledImage]


class ClassificationMetric(BaseMetric):
    """Confusion matrix and mistakes of a classifier of one label per image.

    Gives no figures to the log; `analysis` has them after the evaluation, in the main process.
    """

    default_prefix = ''

    def __init__(self) -> None:
        super().__init__()
        self.analysis: ClassificationAnalysis | None = None

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keeps what a batch was taken for."""
        for sample in data_samples:
            scores, label = sample['pred_score'].cpu().float(), int(sample['gt_label'])
            best = scores.topk(min(MOST, len(scores))).indices.tolist()
            self.results.append(
                LabelledImage(
                    path=sample.get('img_path') or '',
                    number=int(sample.get('sample_idx', len(self.results))),
                    label=label,
                    predicted=best[0],
                    score=float(scores[best[0]]),
                    label_score=float(scores[label]),
                    among=label in best,
                )
            )

    def compute_metrics(self, results: list[LabelledImage]) -> dict:
        """Analyses the images of all processes."""
        self.analysis = analyse_classification(results, list(map(str, self.dataset_meta['classes'])))
        return {}


def analyse_classification(images: Sequence[LabelledImage], names: Sequence[str]) -> ClassificationAnalysis:
    """Computes the figures with MMPretrain's metrics.

    Args:
        images: In any order.
        names: Of the classes.
    """
    from mmpretrain.evaluation import ConfusionMatrix, SingleLabelMetric

    predicted = torch.tensor([image.predicted for image in images], dtype=torch.long)
    labels = torch.tensor([image.label for image in images], dtype=torch.long)
    number = len(names)
    confusion = ConfusionMatrix.calculate(predicted, labels, num_classes=number).numpy()
    figures = SingleLabelMetric.calculate(predicted, labels, num_classes=number, average=None)
    precision, recall, f1, support = (values.tolist() for values in figures)
    classes = [
        dict(
            name=name,
            top1=recall[label] / 100 if support[label] else None,
            precision=precision[label] / 100 if found else None,
            F1=f1[label] / 100 if support[label] or found else None,
            images=int(support[label]),
            predictions=int(found),
        )
        for label, (name, found) in enumerate(zip(names, confusion.sum(0)))
    ]
    overall: dict[str, float | None] = dict(top1=_share([image.label == image.predicted for image in images]))
    if number > MOST:
        overall['top5'] = _share([image.among for image in images])
    mistakes = sorted((image for image in images if image.label != image.predicted), key=lambda image: -image.loss)
    return ClassificationAnalysis(overall, classes, confusion, mistakes)


def _share(right: Sequence[bool]) -> float | None:
    return sum(right) / len(right) if right else None
