"""What a segmentor can learn from the label maps of a split, and what metrics can be computed from them."""

import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image

from mmfocal.datasets.validation.issues import Issue, quote_some

MAX_SAMPLES = 200  # label maps that are read, unless no second class is found among them
BACKGROUND = {'background', 'bg', '_background_', 'unlabeled', 'unlabelled', 'void', 'ignore', 'other'}


def find_split_issues(
    paths: Sequence[str],
    classes: Sequence[str],
    name: str,
    first: int = 0,
    ignore_index: int = 255,
    label_map: dict[int, int] | None = None,
    test_mode: bool = False,
) -> list[Issue]:
    """Reads label maps and returns what is wrong with all of them together.

    Args:
        paths: Label maps of the split. Up to 200 are read, evenly spaced; more if these have one class only.
        classes: `metainfo.classes`.
        name: What messages call the split: its folder or list.
        first: Value of the first class: 1 if 0 is ignored as well.
        ignore_index: Value of pixels of no class.
        label_map: Labels by index of the data set's own classes, if the config names only some of them.
        test_mode: Whether the split is for validation or testing.
    """
    pixels = np.zeros(len(classes), np.int64)
    ignored, others, jpegs, read = 0, False, [], 0
    for path in _spread(paths):
        if read >= MAX_SAMPLES and np.count_nonzero(pixels) > 1:
            break
        values, is_jpeg = _read(path)
        if values is None:  # loading reports it
            continue
        read += 1
        if is_jpeg:
            jpegs.append(path)
        for value, count in zip(*np.unique(values, return_counts=True)):
            label = _label_of(value, first, ignore_index, label_map)
            if label is None:
                ignored += count
            elif 0 <= label < len(classes) and label == int(label):
                pixels[int(label)] += count
            else:
                others = True
    if not read:
        return []
    issues = []

    def add(kind: str, message: str, level: str) -> None:
        issues.append(Issue(kind, f'{name}: {message}', name, level=level))

    severity = 'warning' if test_mode else 'error'
    if jpegs:
        message = (
            f'{len(jpegs)} of {read} label maps are JPEG, such as {jpegs[0]}, which alters values; export them as PNG'
        )
        add('JPEG label maps', message, 'error')
        return issues
    if others:  # each such label map is an error when it is loaded
        return issues
    present = [cls for cls, count in zip(classes, pixels) if count]
    absent = [cls for cls, count in zip(classes, pixels) if not count]
    hint = ''
    if ignored and len(classes) == 2 and len(present) < 2:
        hint = f'; if {ignore_index} is meant to be {absent[-1]!r}, write {first + 1} for it'
    if first and str(classes[0]).lower() in BACKGROUND:
        shifted = f'reduce_zero_label=True ignores the value 0 and makes 1 the class {classes[0]!r}'
        remedy = f'remove {classes[0]!r} from metainfo.classes, or set reduce_zero_label=False'
        add('background and reduce_zero_label', f'{shifted}; {remedy}', 'warning' if pixels[-1] else 'error')
    if not present:
        add(
            'all pixels ignored',
            f'all pixels of {read} label maps are ignored{hint or "; check their values"}',
            severity,
        )
    elif len(present) == 1 and len(classes) > 1:
        what = 'mIoU says nothing' if test_mode else 'nothing can be learned'
        message = f'all pixels of {read} label maps are {present[0]!r} or ignored, so {what}'
        add('one class only', message + (hint or '; check their values and metainfo.classes'), severity)
    elif absent:
        which = 'all' if read == len(paths) else f'{read} of {len(paths)}'
        message = f'no pixel is {quote_some(absent)} in {which} label maps ({len(absent)} of {len(classes)} classes)'
        add('class without pixels', message, 'warning' if read == len(paths) else 'note')
    return issues


def _spread(paths: Sequence[str]) -> list[str]:
    """Returns all paths, first some that are evenly spaced."""
    step = max(1, len(paths) // MAX_SAMPLES)
    return [path for start in range(step) for path in paths[start::step]]


def _read(path: str) -> tuple[np.ndarray | None, bool]:
    """Returns a label map's values, or None if it is not one, and whether it is JPEG."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)
            with Image.open(path) as image:
                values, is_jpeg = np.array(image).squeeze(), image.format == 'JPEG'
    except Exception:  # Pillow's decoders raise many types; loading reports what is wrong
        return None, False
    values = values.astype(np.uint8) if values.dtype == bool else values
    return (values if values.ndim == 2 else None), is_jpeg


def _label_of(value: float, first: int, ignore_index: int, label_map: dict[int, int] | None) -> float | None:
    """Returns the label of a value, or None if it is ignored."""
    if value == ignore_index or first and value == 0:
        return None
    label = value - first
    if label_map:
        label = label_map.get(int(label), 255) if label == int(label) else label
        return None if label == 255 else label
    return label
