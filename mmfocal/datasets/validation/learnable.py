"""Counts what a detector can learn from an annotation file, by class."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from mmfocal.datasets.validation.issues import Issue, is_id, shorten


class LearnableCounter:
    """Counts annotations that are learned, ignored and left out, and finds what the counts say.

    Args:
        categories: Valid categories by id.
        classes: `metainfo.classes`.
        images: Valid images by id.
        name: What messages call the annotation file.
    """

    def __init__(self, categories: dict[Any, dict], classes: Sequence[str], images: dict[Any, dict], name: str):
        self.classes, self.name = classes, name
        self.images = images
        self.class_of = {
            category_id: category['name'] for category_id, category in categories.items() if category['name'] in classes
        }
        self.counts: dict[str, Counter] = {state: Counter() for state in ('learned', 'ignored', 'left out', 'invalid')}
        self.annotated: set = set()

    def see(self, image_id: Any) -> None:
        """Notes that an image has an annotation, valid or not."""
        if is_id(image_id):
            self.annotated.add(image_id)

    def add(self, annotation: dict, image: dict, bbox: Sequence[float] | None, state: str) -> None:
        """Counts one annotation.

        Args:
            annotation: Annotation with a known category and image.
            image: Its image.
            bbox: Its box, or None if it has no valid one.
            state: `learned`, `ignored` (crowds, and what is marked so), `left out` or `invalid`.
        """
        if annotation['category_id'] in self.class_of:
            self.counts[state][self.class_of[annotation['category_id']]] += 1

    def find_issues(self, test_mode: bool) -> list[Issue]:
        """Returns issues of the counts.

        Args:
            test_mode: Whether the file is for validation or testing.
        """
        issues = []
        if self.annotated:
            for image_id in self.images:
                if image_id not in self.annotated:
                    message = f'{self.name}: image {shorten(image_id)} has no annotations'
                    issues.append(Issue('image without annotations', message, self.name, image_id, level='note'))
        return issues
