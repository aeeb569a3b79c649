"""The data sets inside wrappers, such as those of MMEngine, MMDetection and MMSegmentation."""

from collections.abc import Iterator, Mapping
from typing import Any


def iterate_inner(dataset: Any) -> Iterator[Any]:
    """Yields the innermost data sets.

    Args:
        dataset: A data set or the config of one. A wrapper, such as RepeatDataset or ConcatDataset, has its data set as
            `dataset`, or several as `datasets`.
    """
    if isinstance(dataset, Mapping):
        inner, several = dataset.get('dataset'), dataset.get('datasets')
    else:
        inner, several = getattr(dataset, 'dataset', None), getattr(dataset, 'datasets', None)
    if inner is not None:
        several = [inner]
    if several is None:
        yield dataset
        return
    for one in several:
        yield from iterate_inner(one)
