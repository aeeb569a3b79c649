"""labelme: one JSON file per image, with polygons, rectangles, circles and masks; the image beside it or embedded."""

import base64
import binascii
import io
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from mmfocal.datasets.converters.masks import encode
from mmfocal.datasets.converters.records import (
    Object,
    Picture,
    Report,
    Settings,
    Source,
    bounding_box,
    ellipse,
    files_in_splits,
    join_parts,
    loaded_size,
    number,
    read_each,
    relative_name,
    rotated_rectangle,
    split_folders,
)
from mmfocal.errors import DataError, MissingFileError

LEFT_OUT = ('__ignore__', '_background_')  # labelme's names for what is no class
WITHOUT_AREA = ('line', 'linestrip', 'point', 'points')


def read(src: Path, settings: Settings, report: Report) -> Source:
    """Reads a data set.

    Args:
        src: Its folder; subfolders `train`, `val` and `test` are its splits.
        settings: The user's choices.
        report: Collects errors and notes.

    Raises:
        MissingFileError: If there is no annotation.
    """
    folders = split_folders(src) or dict(train=src)
    files = files_in_splits(folders, src, settings, ('.json',), report)
    if not files:
        raise MissingFileError(f'{src}: no JSON file; name the folder that labelme saved to')
    pictures: dict[str, Picture] = {}
    for split, path in files:
        with report.file():
            picture = _read_file(path, src, split, settings, report)
            if picture.name in pictures:
                raise DataError(
                    f'{path}: annotates {picture.name}, as {pictures[picture.name].source} does; remove one'
                )
            pictures[picture.name] = picture
    return Source(list(pictures.values()), _class_list(src), has_splits=bool(split_folders(src)))


def _class_list(src: Path) -> list[str] | None:
    """Returns the classes in `labels.txt`, labelme's option `--labels`."""
    path = src / 'labels.txt'
    if not path.is_file():
        return None
    lines = [line.strip() for line in path.read_text(encoding='utf-8-sig').splitlines()]
    return list(dict.fromkeys(line for line in lines if line and line not in LEFT_OUT))


def _read_file(path: Path, src: Path, split: str, settings: Settings, report: Report) -> Picture:
    try:
        content = json.loads(path.read_text(encoding='utf-8-sig'))
    except (ValueError, RecursionError) as error:
        raise DataError(f'{path}: not JSON, or truncated ({error}); save it again in labelme') from error
    if not isinstance(content, dict) or not isinstance(content.get('shapes'), list):
        raise DataError(f'{path}: not of labelme, since it has no list of shapes; move it elsewhere')
    recorded = content.get('imageWidth'), content.get('imageHeight')
    size = recorded if all(type(side) is int and side > 0 for side in recorded) else None
    picture = _find_image(path, src, content, size, report)
    picture.split = split
    shapes = read_each(
        content['shapes'], lambda shape: _read_shape(shape, picture.size, settings, path, report), path, 'shapes'
    )
    groups: dict[Any, list[Object]] = defaultdict(list)
    for index, (group, found) in enumerate(shapes):
        groups[index if group is None else (str(group), found.label)].append(found)
    try:
        picture.objects = [join_parts(parts) for parts in groups.values()]
    except DataError as error:
        raise DataError(f'{path}: {error}') from error
    report.note('{} parts were joined to objects by their group_id', path, len(shapes) - len(groups))
    return picture


def _find_image(path: Path, src: Path, content: dict, size: tuple | None, report: Report) -> Picture:
    named = str(content.get('imagePath') or '').replace('\\', '/')
    for image in (path.parent / named, path.parent / Path(named).name):
        if named and image.is_file():
            return Picture(relative_name(image, src), path, loaded_size(image, size), image)
    if not content.get('imageData'):
        raise DataError(f'{path}: image {named or "without imagePath"} not found, none embedded; restore the image')
    try:
        data = base64.b64decode(content['imageData'], validate=True)
        with Image.open(io.BytesIO(data)) as image:
            suffix, found = f'.{(image.format or "png").lower()}'.replace('jpeg', 'jpg'), image.size
            turned = image.getexif().get(0x112, 1) in (5, 6, 7, 8)
    except (ValueError, TypeError, binascii.Error, OSError) as error:
        raise DataError(f'{path}: image {named} not found, and imageData holds none; restore the image') from error
    found = found[::-1] if turned else found
    if size and tuple(size) != found:
        raise DataError(
            f'{path}: the embedded image has {found[0]} x {found[1]} px, but {size[0]} x {size[1]} px are recorded; '
            'save it again in labelme'
        )
    report.note('{} images are missing and were written from the embedded imageData', path)
    name = relative_name(path.with_suffix(suffix), src)
    return Picture(name, path, found, None, content=data)


def _read_shape(
    shape: Any, size: tuple[int, int], settings: Settings, path: Path, report: Report
) -> tuple[Any, Object] | None:
    """Returns a shape's group and object; None if it has no area or no class."""
    if not isinstance(shape, dict) or not str(shape.get('label') or '').strip():
        raise DataError('it has no label; name its class')
    label, kind = str(shape['label']).strip(), shape.get('shape_type') or 'polygon'
    if label in LEFT_OUT:
        report.note(f'{{}} shapes of the label {label} were left out', path)
        return None
    if kind in WITHOUT_AREA:
        report.note(f'{{}} shapes of type {kind} were left out, since they have no area', path)
        return None
    try:
        points = [(number(x, 'x'), number(y, 'y')) for x, y in shape['points']]
    except (KeyError, TypeError, ValueError) as error:
        raise error if isinstance(error, DataError) else DataError('its points are no pairs of x and y') from error
    found = Object(label, attributes=_attributes(shape))
    if kind == 'polygon' and len(points) >= 3:
        found.polygons = [[value for point in points for value in point]]
    elif kind == 'rectangle' and len(points) in (2, 4):
        found.box = bounding_box([[value for point in points for value in point]])
    elif kind == 'oriented_rectangle' and len(points) == 4:
        rotated_rectangle(found, [value for point in points for value in point], settings.rotated)
        if settings.rotated == 'box':
            report.note('{} rotated rectangles became upright boxes', path)
    elif kind == 'circle' and len(points) == 2:
        radius = math.dist(*points)
        found.polygons = [ellipse(points[0], (radius, radius))]
    elif kind == 'mask' and points:
        found.mask = _decode_mask(shape.get('mask'), points[0], size)
    elif kind in ('polygon', 'rectangle', 'oriented_rectangle', 'circle', 'mask'):
        raise DataError(f'a {kind} of {len(points)} points; draw it again')
    else:
        report.note(f'{{}} shapes of the unknown type {kind!r} were left out', path)
        return None
    return shape.get('group_id'), found


def _attributes(shape: dict) -> dict[str, Any]:
    """Returns what else labelme knows of a shape: its flags that are set, and its description."""
    flags = shape.get('flags')
    attributes = {name: True for name, is_set in flags.items() if is_set} if isinstance(flags, dict) else {}
    if shape.get('description'):
        attributes['description'] = str(shape['description'])
    return attributes


def _decode_mask(encoded: Any, corner: tuple[float, float], size: tuple[int, int]) -> dict:
    """Returns the run lengths of a mask, a PNG of its box as base64."""
    try:
        part = cv2.imdecode(np.frombuffer(base64.b64decode(encoded), np.uint8), cv2.IMREAD_GRAYSCALE)
    except (ValueError, TypeError, binascii.Error, cv2.error):
        part = None
    if part is None:
        raise DataError('its mask is no PNG; draw it again')
    left, top = (round(value) for value in corner)
    width, height = size
    whole = np.zeros((height, width), np.uint8)
    target = whole[max(top, 0) : max(top + part.shape[0], 0), max(left, 0) : max(left + part.shape[1], 0)]
    y, x = max(-top, 0), max(-left, 0)
    target[:] = part[y : y + target.shape[0], x : x + target.shape[1]] > 0
    return encode(whole)
