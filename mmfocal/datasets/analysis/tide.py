"""Kinds of errors of a detector, and the AP that each costs.

As TIDE defines them (Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020,
section 2.2), with a foreground threshold t_f = 0.5 and a background threshold t_b = 0.1.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mmfocal.datasets.analysis.matching import Matches

CORRECT, CLASSIFICATION, LOCALIZATION, BOTH, DUPLICATE, BACKGROUND = range(-1, 5)
IGNORED = -2
KINDS = ('classification', 'localization', 'both', 'duplicate', 'background', 'missed')
SPECIAL = ('false positives', 'false negatives')
FOREGROUND_IOU, BACKGROUND_IOU = 0.5, 0.1
RECALLS = np.linspace(0, 1, 101)  # COCO's


@dataclass
class ImageErrors:
    """Errors of an image.

    Args:
        kinds: Of each detection: an index of `KINDS`, `CORRECT` or `IGNORED`, (n,).
        targets: The annotation that a wrong class or place belongs to, or -1, (n,).
        corrects: Whether correcting the detection makes it the match of its target, (n,).
        found: Whether an annotation has a match, (m,).
        missed: Whether no detection matches an annotation, and none would if it were corrected, (m,).
    """

    kinds: np.ndarray
    targets: np.ndarray
    corrects: np.ndarray
    found: np.ndarray
    missed: np.ndarray


def find_errors(matches: Matches) -> ImageErrors:
    """Returns the kinds of errors of an image's detections.

    The first kind that fits counts, in the order of TIDE's code: localization (the largest IoU with an annotation of
    the class is from 0.1 to 0.5), classification (IoU of 0.5 or more with one of another class), duplicate (IoU of 0.5
    or more with one of the class that has a match already), background (no IoU above 0.1) and both. An annotation
    without a match is missed unless a wrong class or place belongs to it.

    Args:
        matches: At an IoU of 0.5.
    """
    number, ious, truths = len(matches.labels), matches.ious, matches.truths
    found = np.zeros(len(matches.truth_labels), bool)
    found[truths[truths >= 0]] = True
    kinds, targets, corrects = np.full(number, BOTH), np.full(number, -1), np.zeros(number, bool)
    if len(found):
        same = matches.labels[:, None] == matches.truth_labels
        of_class, of_others = np.where(same, ious, 0), np.where(same, 0, ious)
        near, nearest_other = of_class.max(1), of_others.max(1)
        kinds[ious.max(1) <= BACKGROUND_IOU] = BACKGROUND
        kinds[np.where(found, of_class, 0).max(1) >= FOREGROUND_IOU] = DUPLICATE
        kinds[nearest_other >= FOREGROUND_IOU] = CLASSIFICATION
        kinds[(near >= BACKGROUND_IOU) & (near <= FOREGROUND_IOU)] = LOCALIZATION
        targets = np.where(kinds == LOCALIZATION, of_class.argmax(1), targets)
        targets = np.where(kinds == CLASSIFICATION, of_others.argmax(1), targets)
    else:
        kinds[:] = BACKGROUND
    kinds[matches.ignored], kinds[truths >= 0] = IGNORED, CORRECT
    targets[kinds < 0] = -1
    missed = ~found
    for index in np.flatnonzero(targets >= 0):  # by falling score: the first corrects, others are duplicates then
        if missed[targets[index]]:
            corrects[index], missed[targets[index]] = True, False
    return ImageErrors(kinds, targets, corrects, found, missed)


@dataclass
class ErrorAnalysis:
    """Errors of all images.

    Args:
        ap50: AP at an IoU of 0.5, the mean over classes that have annotations, 0 to 1.
        counts: Kind → number of errors.
        gains: Kind → what AP gains if all errors of the kind are corrected and nothing else.
        special: Of `SPECIAL` → what AP gains without them.
    """

    ap50: float
    counts: dict[str, int]
    gains: dict[str, float]
    special: dict[str, float]


@dataclass
class Detections:
    """Detections of all images that count, (n,) each."""

    labels: np.ndarray
    scores: np.ndarray
    kinds: np.ndarray
    corrects: np.ndarray
    target_labels: np.ndarray

    def average_precision(self, positives: np.ndarray, classes: np.ndarray, **changes: np.ndarray) -> float:
        """Returns AP after changes of labels, scores or `keep`, the detections that remain.

        Args:
            positives: Annotations of each class, (k,).
            classes: Labels of the classes that AP is the mean of.
            **changes: `labels`, `scores`, `correct` and `keep`, (n,); each by default as it is.
        """
        labels, scores = changes.get('labels', self.labels), changes.get('scores', self.scores)
        correct, keep = changes.get('correct', self.kinds == CORRECT), changes.get('keep')
        if keep is not None:
            labels, scores, correct = labels[keep], scores[keep], correct[keep]
        values = []
        order = np.argsort(labels, kind='stable')
        starts, ends = (np.searchsorted(labels[order], classes, side) for side in ('left', 'right'))
        for label, start, end in zip(classes, starts, ends):
            chosen = order[start:end]
            if positives[label] or len(chosen):
                values.append(average_precision(scores[chosen], correct[chosen], positives[label]))
        return float(np.mean(values)) if values else 0.0


def average_precision(scores: np.ndarray, correct: np.ndarray, positives: int) -> float:
    """Returns COCO's AP of one class, 0 to 1, with precisions at 101 recalls.

    Args:
        scores: Of the detections, (n,).
        correct: Whether each has a match, (n,).
        positives: Number of annotations; AP is 0 if there are none.
    """
    if not positives or not len(scores):
        return 0.0
    hits = np.cumsum(correct[np.argsort(-scores, kind='stable')])
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    at = np.searchsorted(hits / positives, RECALLS, side='left')
    return float(np.append(precision, 0)[at].mean())


def analyse_errors(images: Iterable[tuple[Matches, ImageErrors]], num_classes: int) -> ErrorAnalysis:
    """Counts the errors of all images, and computes what correcting each kind gains.

    A correction changes nothing else: a wrong class is replaced by that of its target, and a wrong place becomes right;
    of several with one target the highest-scored counts, and the others are removed, as are duplicates, detections of
    background and those wrong in both; missed annotations are taken off the number of annotations.

    Args:
        images: Matches at an IoU of 0.5, with their errors.
        num_classes: Number of classes.
    """
    positives, lost, missed = (np.zeros(num_classes, int) for _ in range(3))
    parts = []
    for matches, errors in images:
        for counts, chosen in ((positives, slice(None)), (lost, ~errors.found), (missed, errors.missed)):
            counts += np.bincount(matches.truth_labels[chosen], minlength=num_classes)
        target_labels = np.append(matches.truth_labels, -1)[errors.targets]
        count = errors.kinds != IGNORED
        columns = matches.labels, matches.scores, errors.kinds, errors.corrects, target_labels
        parts.append([column[count] for column in columns])
    if not parts:
        return ErrorAnalysis(0.0, dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0.0), dict.fromkeys(SPECIAL, 0.0))
    all_of = Detections(*map(np.concatenate, zip(*parts)))
    classes, correct = np.flatnonzero(positives), all_of.kinds == CORRECT
    ap50 = all_of.average_precision(positives, classes)
    gains = {}
    for kind, name in enumerate(KINDS[:-1]):
        wrong = all_of.kinds == kind
        corrected = wrong & all_of.corrects
        labels = np.where(corrected & (kind == CLASSIFICATION), all_of.target_labels, all_of.labels)
        gains[name] = all_of.average_precision(
            positives, classes, labels=labels, correct=correct | corrected, keep=~wrong | corrected
        )
    gains['missed'] = all_of.average_precision(positives - missed, classes)
    counts = {name: int((all_of.kinds == kind).sum()) for kind, name in enumerate(KINDS[:-1])}
    special = {
        'false positives': all_of.average_precision(positives, classes, scores=correct.astype(float)),
        'false negatives': all_of.average_precision(positives - lost, classes),
    }
    return ErrorAnalysis(
        ap50,
        {**counts, 'missed': int(missed.sum())},
        {name: max(value - ap50, 0.0) for name, value in gains.items()},  # below 0 for steps of the recall only
        {name: value - ap50 for name, value in special.items()},
    )
