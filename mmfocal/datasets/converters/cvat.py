"""CVAT's own XML: `CVAT for images 1.1` and `CVAT for video 1.1`, of a task, a job or a project."""

from collections import defaultdict
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from mmfocal.datasets.converters.masks import encode
from mmfocal.datasets.converters.records import (
    IMAGE_SUFFIXES,
    Object,
    Picture,
    Report,
    Settings,
    Source,
    ellipse,
    files_below,
    join_parts,
    loaded_size,
    number,
    read_each,
    relative_name,
    rotated_rectangle,
    split_name,
    turned_corners,
)
from mmfocal.datasets.converters.xml_files import read_xml, text_of
from mmfocal.errors import DataError, MissingFileError

SHAPES = ('box', 'polygon', 'mask', 'ellipse')


def read(src: Path, settings: Settings, report: Report) -> Source:
    """Reads a data set.

    Args:
        src: The unpacked export's folder, or its XML file.
        settings: The user's choices.
        report: Collects errors and notes.

    Raises:
        MissingFileError: If there is no XML file.
    """
    root = src if src.is_dir() else src.parent
    files = files_below(src, settings, ('.xml',)) if src.is_dir() else [src]
    if not files:
        raise MissingFileError(f'{src}: no XML file; unpack an export "CVAT for images 1.1" or "CVAT for video 1.1"')
    pictures, classes = [], []
    finder = _ImageFinder(root, settings)
    for path in files:
        with report.file():
            tree = read_xml(path)
            if tree.tag != 'annotations':
                raise DataError(f'{path}: not of CVAT, since its root is <{tree.tag}>; move it elsewhere')
            classes += [text_of(label, 'name') for label in tree.iterfind('meta//labels/label')]
            for picture in _pictures(tree, path, finder, report):
                with report.file():
                    pictures.append(_read_picture(*picture, path, finder, settings, report))
    by_name: dict[str, Picture] = {}
    for picture in pictures:
        if by_name.setdefault(picture.name, picture) is not picture:
            report.errors.append(
                f'{picture.source}: image {picture.name} is also in {by_name[picture.name].source}; export each once'
            )
    splits = {picture.split for picture in pictures}
    return Source(pictures, list(dict.fromkeys(classes)) or None, has_splits=len(splits) > 1)


class _ImageFinder:
    """Finds the images of an export: in `images/`, in `images/<subset>/`, or beside the XML file."""

    def __init__(self, root: Path, settings: Settings) -> None:
        self.root = root
        self.by_stem: dict[str, list[Path]] = defaultdict(list)
        for path in files_below(root, settings, IMAGE_SUFFIXES):
            self.by_stem[path.stem].append(path)

    def find(self, name: str, subset: str, file: Path, stem_only: bool = False) -> Path:
        """Returns an image by its name in the export.

        Raises:
            DataError: If it is not found.
        """
        for folder in (file.parent, self.root):
            for place in (folder / 'images' / subset, folder / 'images', folder / subset, folder):
                if not stem_only and (place / name).is_file():
                    return place / name
        stem = Path(name).stem if not stem_only else name
        found = [path for path in self.by_stem[stem] if stem_only or path.as_posix().endswith(f'/{name}')]
        if len(found) == 1:
            return found[0]
        problem = f'{len(found)} images have this name' if found else 'not found'
        remedy = (
            'extract the frames (ffmpeg -i VIDEO -start_number 0 images/frame_%06d.png)'
            if stem_only
            else ('export with images, or put them into images/')
        )
        raise DataError(f'{file}: image {name}: {problem}; {remedy}')


def _pictures(
    tree: Element, path: Path, finder: _ImageFinder, report: Report
) -> list[tuple[str, str, tuple[int, int] | None, list[tuple[Element, dict]], bool]]:
    """Returns the name, the subset, the size and the shapes of each image; of a video, of each frame."""
    subsets = {text_of(task, 'id'): text_of(task, 'subset') for task in tree.iter('task')}
    only = text_of(tree, 'meta/task/subset') or text_of(tree, 'meta/job/subset')
    pictures = []
    for image in tree.iterfind('image'):
        subset = image.get('subset') or subsets.get(image.get('task_id', ''), '') or only
        shapes = [(shape, {}) for shape in image]
        pictures.append((image.get('name', ''), subset, _size(image, path), shapes, False))
    tracks = tree.findall('track')
    if not tracks and pictures:
        return pictures
    frames: dict[tuple[str, int], list[tuple[Element, dict]]] = defaultdict(list)
    for track in tracks:
        subset = track.get('subset') or subsets.get(track.get('task_id', ''), '') or only
        known = dict(label=track.get('label', ''), track_id=int(number(track.get('id', '0'), 'a track id')))
        for shape in track:
            if shape.get('outside') == '1':
                report.note('{} shapes of tracks are outside their frame', path)
                continue
            frames[subset, int(number(shape.get('frame'), "a shape's frame"))].append((shape, known))
    meta = tree.find('meta//original_size')
    size = _size(meta, path) if meta is not None else None
    total = int(number(tree.findtext('meta/task/size') or 0, 'meta/task/size'))
    if total and len(subsets) <= 1:  # frames without an object are background
        for frame in range(total):
            frames.setdefault((only, frame), [])
    return pictures + [
        (f'frame_{frame:06d}', subset, size, frames[subset, frame], True) for subset, frame in sorted(frames)
    ]


def _size(element: Element, path: Path) -> tuple[int, int] | None:
    sides = [element.get(side) or element.findtext(side) for side in ('width', 'height')]
    if not all(sides):
        return None
    try:
        width, height = (int(number(side, 'a side')) for side in sides)
    except DataError as error:
        raise DataError(f'{path}: {error}') from error
    return width, height


def _read_picture(
    name: str,
    subset: str,
    size: tuple[int, int] | None,
    shapes: list[tuple[Element, dict]],
    is_frame: bool,
    path: Path,
    finder: _ImageFinder,
    settings: Settings,
    report: Report,
) -> Picture:
    image = finder.find(name.replace('\\', '/'), subset, path, is_frame)
    size = loaded_size(image, size)
    picture = Picture(relative_name(image, finder.root), path, size, image, split_name(subset or 'default'))
    where = Path(f'{path}: image {name}')
    read = read_each(shapes, lambda shape: _read_shape(*shape, size, settings, where, report), where, 'shapes')
    groups: dict[Any, list[Object]] = defaultdict(list)
    for index, (group, found) in enumerate(read):
        groups[index if group in ('', '0') else (group, found.label)].append(found)
    try:
        picture.objects = [join_parts(parts) for parts in groups.values()]
    except DataError as error:
        raise DataError(f'{where}: {error}') from error
    report.note('{} parts were joined to objects by their group_id', where, len(read) - len(groups))
    return picture


def _read_shape(
    shape: Element, track: dict, size: tuple[int, int], settings: Settings, where: Path, report: Report
) -> tuple[str, Object] | None:
    """Returns a shape's group and object; None if it has no area."""
    if shape.tag not in SHAPES:
        report.note(f'{{}} shapes of type {shape.tag} were left out', where)
        return None
    label = shape.get('label') or track.get('label')
    if not label:
        raise DataError(f'a {shape.tag} without a label; name its class')
    found = Object(label, attributes=_attributes(shape, track))
    rotation = number(shape.get('rotation', '0'), 'rotation')
    if shape.tag == 'box':
        left, top, right, bottom = (number(shape.get(key), key) for key in ('xtl', 'ytl', 'xbr', 'ybr'))
        if right < left or bottom < top:
            raise DataError(f'a box from {left:g}, {top:g} to {right:g}, {bottom:g}; swap its corners')
        if rotation % 180:
            found.attributes['rotation'] = rotation
            center, sides = ((left + right) / 2, (top + bottom) / 2), (right - left, bottom - top)
            rotated_rectangle(found, turned_corners(center, sides, rotation), settings.rotated)
            if settings.rotated == 'box':
                report.note('{} rotated boxes became upright boxes; --rotated polygon keeps them', where)
        else:
            found.box = (left, top, right - left, bottom - top)
    elif shape.tag == 'polygon':
        points = [number(value, 'a coordinate') for value in shape.get('points', '').replace(';', ',').split(',')]
        if len(points) < 6 or len(points) % 2:
            raise DataError(f'a polygon of {len(points)} coordinates; draw three points or more')
        found.polygons = [points]
    elif shape.tag == 'ellipse':
        x, y, rx, ry = (number(shape.get(key), key) for key in ('cx', 'cy', 'rx', 'ry'))
        found.polygons = [ellipse((x, y), (rx, ry), rotation)]
    else:
        found.mask = _decode_mask(shape, size)
    return shape.get('group_id') or '', found


def _attributes(shape: Element, track: dict) -> dict[str, Any]:
    """Returns a shape's attributes, whether it is occluded, and its track."""
    attributes = {attribute.get('name', ''): (attribute.text or '').strip() for attribute in shape.iter('attribute')}
    if shape.get('occluded') == '1':
        attributes['occluded'] = 1
    if 'track_id' in track:
        attributes['track_id'] = track['track_id']
    return attributes


def _decode_mask(shape: Element, size: tuple[int, int]) -> dict:
    """Returns the run lengths of a mask, whose own run row by row through its box and start with background."""
    left, top, width, height = (int(number(shape.get(key), key)) for key in ('left', 'top', 'width', 'height'))
    counts = [int(number(count, 'a run length')) for count in shape.get('rle', '').split(',')]
    fits = 0 <= left < left + width <= size[0] and 0 <= top < top + height <= size[1]
    if not fits or min(counts) < 0 or sum(counts) != width * height:
        raise DataError(
            f'a mask of {width} x {height} px at {left}, {top} whose run lengths do not fit; export it again'
        )
    whole = np.zeros((size[1], size[0]), np.uint8)
    part = np.repeat(np.arange(len(counts)) % 2, counts).astype(np.uint8)
    whole[top : top + height, left : left + width] = part.reshape(height, width)
    return encode(whole)
