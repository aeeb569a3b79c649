"""Counts what a detector can learn from an annotation file, and finds the mistakes that the counts show."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from mmfocal.datasets.validation.issues import Issue, is_id, quote_some, shorten
from mmfocal.text import join_some

COCO_MAX_DETS = 100  # detections per image and class that COCO's AP counts
NEGATIVE = 'of negative size'
SHARE = 0.3  # of boxes that must extend beyond their images before another format is considered


class LearnableCounter:
    """Counts annotations that are learned, ignored and left out, and finds what the counts mean.

    Args:
        categories: Valid categories by id.
        classes: `metainfo.classes`.
        images: Valid images by id.
        name: What messages call the annotation file.
    """

    def __init__(self, categories: dict[Any, dict], classes: Sequence[str], images: dict[Any, dict], name: str):
        self.classes, self.images, self.name = list(map(str, classes)), images, name
        self.class_of = {category_id: str(category['name']) for category_id, category in categories.items()}
        self.learned: Counter = Counter()  # by class
        self.per_image: Counter = Counter()  # by image and class
        self.reasons: dict[str, Counter] = {}  # why others are not learned, by class
        self.annotated: set = set()
        self.unnamed: Counter = Counter()  # of categories that metainfo.classes does not name
        self.boxes: list[tuple[Sequence[float], dict]] = []
        self.seen: dict[int, Any] = {}
        self.repeated: list[tuple[Any, Any]] = []

    def see(self, image_id: Any) -> None:
        """Notes that an image has an annotation, valid or not."""
        if is_id(image_id):
            self.annotated.add(image_id)

    def add(self, annotation: dict, image: dict, reason: str = '', bbox: Sequence[float] | None = None) -> None:
        """Counts one annotation.

        Args:
            annotation: Annotation with a known category and image.
            image: Its image.
            reason: Why it is not learned. Default: it is learned.
            bbox: Its valid box, if it has one.
        """
        name = self.class_of[annotation['category_id']]
        if bbox is not None:
            self.boxes.append((bbox, image))
            key = hash((image['id'], name, *bbox))  # less memory than the values
            if self.seen.setdefault(key, annotation['id']) != annotation['id']:
                self.repeated.append((annotation['id'], self.seen[key]))
        if name not in self.classes:
            self.unnamed[name] += 1
        elif reason:
            self.reasons.setdefault(reason, Counter())[name] += 1
        else:
            self.learned[name] += 1
            self.per_image[image['id'], name] += 1

    def find_issues(self, test_mode: bool, explained: bool = False) -> list[Issue]:
        """Returns issues of all annotations together.

        Args:
            test_mode: Whether the file is for validation or testing.
            explained: Whether the masks show already that boxes have another format.
        """
        issues = [] if explained else self._find_format_issues()
        if issues or not self.images:  # an issue of its own
            return issues
        if not self.learned:
            kind = 'nothing to evaluate' if test_mode else 'nothing to learn'
            message = f'{self.name}: {self._why_nothing(test_mode)}'
            issues.append(Issue(kind, message, self.name, level='warning' if test_mode else 'error'))
        else:
            issues += self._find_class_issues(test_mode)
        for number, other in self.repeated:
            message = f'{self.name}: annotation {shorten(number)} repeats {shorten(other)}; remove one of them'
            issues.append(Issue('annotation repeated', message, self.name, annotation=number, level='warning'))
        if self.annotated:
            for image_id in self.images:
                if image_id not in self.annotated:
                    message = f'{self.name}: image {shorten(image_id)} has no annotations'
                    issues.append(Issue('image without annotations', message, self.name, image_id, level='note'))
        return issues

    def _find_class_issues(self, test_mode: bool) -> list[Issue]:
        issues = []
        for name in self.classes:
            if not self.learned[name] and name in self.class_of.values():  # else `match_categories` reports it
                counts = [f'{count[name]} {reason}' for reason, count in self.reasons.items() if count[name]]
                has = f'only annotations that do not count ({join_some(counts)})' if counts else 'no annotations'
                verb = 'evaluated' if test_mode else 'learned'
                message = f'{self.name}: class {name!r} has {has}, so it cannot be {verb}'
                level = 'note' if test_mode else 'warning'
                issues.append(Issue('class without annotations', message, self.name, level=level))
        total = self.learned.total()
        for reason, counts in self.reasons.items():
            if reason == NEGATIVE:  # each is an error
                continue
            what = join_some(f'{name} {count}' for name, count in counts.most_common())
            message = f'{self.name}: {counts.total()} annotations do not count, because they are {reason} ({what})'
            level = 'warning' if counts.total() > total / 10 else 'note'
            issues.append(Issue('annotations ignored', message, self.name, level=level))
        if self.unnamed:
            what = join_some(f'{name} {count}' for name, count in self.unnamed.most_common())
            message = f'{self.name}: {self.unnamed.total()} annotations are of no class of metainfo.classes ({what})'
            issues.append(Issue('annotations of other categories', message, self.name, level='note'))
        most = max(self.per_image.values(), default=0)
        if test_mode and most > COCO_MAX_DETS:
            message = (
                f'{self.name}: an image has {most} objects of one class, but COCO counts the {COCO_MAX_DETS} best '
                'detections of each; set max_dets in val_evaluator, and max_per_img in model.test_cfg, to count more'
            )
            issues.append(Issue('many objects', message, self.name, level='warning'))
        return issues

    def _why_nothing(self, test_mode: bool) -> str:
        """Returns why no annotation counts, and what to do."""
        result = 'AP would be -1 throughout' if test_mode else 'nothing can be learned'
        counts = Counter({reason: count.total() for reason, count in self.reasons.items()})
        if self.unnamed:
            names = quote_some(list(self.unnamed))
            return f'all annotations are of {names}, which metainfo.classes lacks, so {result}; add them to it'
        if not counts:
            remedy = 'name a file with annotations' + (', or set format_only=True' if test_mode else '')
            return f'has no valid annotation, so {result}; {remedy}'
        reason, number = counts.most_common(1)[0]
        remedy = {
            'ignored': 'set iscrowd and ignore to 0 for single objects',
            'without area': 'write the area of each in px, such as width times height',
            NEGATIVE: 'write boxes as [x, y, width, height]',
        }.get(reason, 'check the boxes')
        return f'{number} of {counts.total()} annotations are {reason} and none counts, so {result}; {remedy}'

    def _find_format_issues(self) -> list[Issue]:
        """Returns an error if boxes are normalized, or another format explains why many extend beyond their images."""
        if self.boxes and all(0 <= min(box) and max(box) <= 1 < image['width'] for box, image in self.boxes):
            message = (
                f'{self.name}: all boxes lie between 0 and 1; multiply them by the width and height of their images'
            )
            return [Issue('boxes in another format', message, self.name)]
        beyond = [(box, image) for box, image in self.boxes if not fits_image(box, image)]
        if len(self.boxes) < 3 or len(beyond) < max(2, SHARE * len(self.boxes)):
            return []
        for name, convert in FORMATS.items():
            if all(fits_image(convert(box), image) for box, image in self.boxes):
                message = (
                    f'{self.name}: {len(beyond)} of {len(self.boxes)} boxes extend beyond their images, but all fit as '
                    f'{name}; write [x, y, width, height] with the upper left corner'
                )
                return [Issue('boxes in another format', message, self.name)]
        return []


def fits_image(box: Sequence[float], image: dict, slack: float = 2) -> bool:
    """Returns whether a box of a positive size lies in its image, with a slack in px."""
    x, y, width, height = box
    return (
        width > 0
        and height > 0
        and min(x, y) >= -slack
        and x + width <= image['width'] + slack
        and y + height <= image['height'] + slack
    )


# Formats that boxes are found in, and how they become [x, y, width, height].
FORMATS = {
    '[x1, y1, x2, y2]': lambda box: (box[0], box[1], box[2] - box[0], box[3] - box[1]),
    '[centre x, centre y, width, height]': lambda box: (box[0] - box[2] / 2, box[1] - box[3] / 2, box[2], box[3]),
    '[y, x, height, width]': lambda box: (box[1], box[0], box[3], box[2]),
}
