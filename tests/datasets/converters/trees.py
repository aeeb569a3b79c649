"""Small data sets of other formats, and what they become."""

import cv2
import numpy as np

from mmfocal.datasets.converters import convert
from mmfocal.datasets.converters.records import Settings


def image(path, width=100, height=50):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((height, width, 3), 127, np.uint8))
    return path


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def converted(format, src, dst, *, rotated='box', first_pixel=None, **options):
    """The annotations by split and the report's notes; errors fail."""
    settings = Settings(rotated=rotated, first_pixel=first_pixel)
    splits, report = convert(format, src, dst, settings=settings, **options)
    assert not report.errors and splits is not None, report.errors
    for coco in splits.values():
        for entry in coco['images']:
            assert (dst / 'images' / entry['file_name']).is_file()
    return splits, report.lines()


def errors(format, src, dst, **settings):
    """The errors; nothing may be written."""
    splits, report = convert(format, src, dst, settings=Settings(**settings))
    assert splits is None and not dst.exists() and not list(dst.parent.glob('.*.part'))
    return report.errors


def boxes(coco):
    """Class and box of each object by image."""
    names = {category['id']: category['name'] for category in coco['categories']}
    files = {entry['id']: entry['file_name'] for entry in coco['images']}
    found = {name: [] for name in files.values()}
    for entry in coco['annotations']:
        found[files[entry['image_id']]].append((names[entry['category_id']], entry['bbox']))
    return found
