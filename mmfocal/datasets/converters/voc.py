"""Pascal VOC: `Annotations/*.xml`, `JPEGImages/`, `ImageSets/Main/*.txt`; or XML files beside their images."""

import math
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

from mmfocal.datasets.converters.records import (
    IMAGE_SUFFIXES,
    Object,
    Picture,
    Report,
    Settings,
    Source,
    files_below,
    files_in_splits,
    loaded_size,
    number,
    read_each,
    relative_name,
    rotated_rectangle,
    split_folders,
    split_name,
    turned_corners,
)
from mmfocal.datasets.converters.xml_files import read_xml, text_of
from mmfocal.errors import DataError, MissingFileError

FLAGS = ('pose', 'truncated', 'occluded', 'difficult')


def read(src: Path, settings: Settings, report: Report) -> Source:
    """Reads a data set.

    Args:
        src: Its folder, or a VOCdevkit with one year.
        settings: The user's choices.
        report: Collects errors and notes.

    Raises:
        MissingFileError: If there is no annotation.
        DataError: If there are several years.
    """
    root = _find_root(src)
    listed, has_splits = _list_files(root, settings, report)
    if not listed:
        raise MissingFileError(f'{src}: no XML file in Annotations/ or below; name the folder that holds them')
    pictures, corners = [], []
    for split, path in listed:
        with report.file():
            pictures.append(_read_file(path, root, split, corners, settings, report))
    first_pixel = _first_pixel(corners, settings, report)
    for found, (left, top, right, bottom), _ in corners:
        # VOC's corners are pixels, both inside the box; counted from 0 they are what labelling tools write: edges.
        found.box = (left - first_pixel, top - first_pixel, right - left + first_pixel, bottom - top + first_pixel)
    if (root / 'SegmentationClass').is_dir():
        report.note('the label maps in SegmentationClass/ are not converted', root)
    return Source(pictures, has_splits=has_splits)


def _find_root(src: Path) -> Path:
    years = sorted(path for path in src.glob('VOC*') if (path / 'Annotations').is_dir())
    if (src / 'Annotations').is_dir() or not years:
        return src
    if len(years) > 1:
        raise DataError(f'{src}: holds {", ".join(path.name for path in years)}; name one of these folders')
    return years[0]


def _list_files(root: Path, settings: Settings, report: Report) -> tuple[list[tuple[str, Path]], bool]:
    """Returns the annotation files with their splits, and whether the data set has splits."""
    annotations = root / 'Annotations'
    if not annotations.is_dir():
        pairs = files_in_splits(split_folders(root), root, settings, ('.xml',), report)
        return pairs or [('train', path) for path in files_below(root, settings, ('.xml',))], bool(pairs)
    lists = {}
    for path in sorted((root / 'ImageSets' / 'Main').glob('*.txt')):
        rows = [line.split() for line in path.read_text(encoding='utf-8-sig').splitlines() if line.strip()]
        if all(len(row) == 1 for row in rows):  # lists of a class have 1, 0 or -1 beside each image
            lists[path.stem] = [row[0] for row in rows]
    if not lists:
        return [('train', path) for path in files_below(annotations, settings, ('.xml',))], False
    if 'trainval' in lists:
        trainval = lists.pop('trainval')
        if 'train' not in lists and 'val' not in lists:
            lists['train'] = trainval
    listed = {}
    for name in sorted(lists, key=lambda name: (('train', 'val', 'test', name).index(name), name)):
        for stem in lists[name]:
            listed.setdefault(split_name(name), {})[stem] = annotations / f'{stem}.xml'
    known = {path for paths in listed.values() for path in paths.values()}
    others = [path for path in files_below(annotations, settings, ('.xml',)) if path not in known]
    if others:
        report.note('{} annotation files are in no list of ImageSets/Main and were left out', others[0], len(others))
    return [(split, path) for split, paths in listed.items() for path in paths.values()], True


def _read_file(path: Path, root: Path, split: str, corners: list, settings: Settings, report: Report) -> Picture:
    if not path.is_file():
        raise DataError(f'{path}: not found, but ImageSets/Main lists it; restore it, or remove it from {split}.txt')
    tree = read_xml(path)
    image = _find_image(path, tree, root, report)
    size = tree.find('size')
    recorded = None
    if size is not None and (text_of(size, 'width', '0'), text_of(size, 'height', '0')) != ('0', '0'):
        try:
            recorded = int(number(text_of(size, 'width'), 'width')), int(number(text_of(size, 'height'), 'height'))
        except DataError as error:
            raise DataError(f'{path}: size: {error}') from error
    else:
        report.note('{} files record no image size, which is taken from the image', path)
    picture = Picture(relative_name(image, root), path, loaded_size(image, recorded), image, split)
    parsed = []
    picture.objects = read_each(
        tree.findall('object'), lambda element: _read_object(element, parsed, settings), path, 'objects'
    )
    corners += [(*one, path) for one in parsed]
    for kind, count in (
        ('{} difficult objects count neither for nor against a detection (iscrowd)', _ignored(picture)),
        ('{} rotated rectangles became upright boxes', _rotated(picture) if settings.rotated == 'box' else 0),
    ):
        report.note(kind, path, count)
    return picture


def _read_object(element: Element, corners: list, settings: Settings) -> Object:
    label = text_of(element, 'name')
    if not label:
        raise DataError('it has no name; name its class')
    attributes = {flag: _flag(text_of(element, flag)) for flag in FLAGS if text_of(element, flag)}
    found = Object(label, ignore=attributes.get('difficult') == 1, attributes=attributes)
    rotated = element.find('robndbox')
    if rotated is not None:  # of roLabelImg
        x, y, w, h, angle = (number(text_of(rotated, key), key) for key in ('cx', 'cy', 'w', 'h', 'angle'))
        found.attributes['rotation'] = math.degrees(angle)
        return rotated_rectangle(found, turned_corners((x, y), (w, h), found.attributes['rotation']), settings.rotated)
    box = element.find('bndbox')
    if box is None:
        raise DataError(f'class {label!r} has no bndbox; draw its box')
    left, top, right, bottom = (number(text_of(box, key), key) for key in ('xmin', 'ymin', 'xmax', 'ymax'))
    if right < left or bottom < top:
        raise DataError(f'class {label!r} has xmin {left:g}, xmax {right:g}, ymin {top:g}, ymax {bottom:g}; swap them')
    corners.append((found, (left, top, right, bottom)))
    return found


def _flag(text: str) -> int | str:
    return int(text) if text in ('0', '1') else text


def _ignored(picture: Picture) -> int:
    return sum(found.ignore for found in picture.objects)


def _rotated(picture: Picture) -> int:
    return sum('rotation' in found.attributes for found in picture.objects)


def _find_image(path: Path, tree: Element, root: Path, report: Report) -> Path:
    """Returns the image that has the annotation file's name, or else the one that it names."""
    named = text_of(tree, 'filename').replace('\\', '/')
    folders = [path.parent]
    if 'Annotations' in path.parts[len(root.parts) :]:
        folders = [root / 'JPEGImages' / path.relative_to(root / 'Annotations').parent, root / 'JPEGImages', *folders]
    for folder in folders:
        for found in _candidates(folder, path.stem):
            if named and Path(named).stem != path.stem:
                report.note('{} files name another image than their own name, which counts', path)
            return found
        for name in (named, Path(named).name):
            if name and (folder / name).is_file():
                return folder / name
    where = ' or '.join(str(folder) for folder in dict.fromkeys(folders))
    raise DataError(f'{path}: no image {path.stem} or {named or "filename"} in {where}; restore the image')


def _candidates(folder: Path, stem: str) -> Iterator[Path]:
    for suffix in IMAGE_SUFFIXES:
        for name in (f'{stem}{suffix}', f'{stem}{suffix.upper()}'):
            if (folder / name).is_file():
                yield folder / name


def _first_pixel(corners: list, settings: Settings, report: Report) -> int:
    if settings.first_pixel is not None:
        return settings.first_pixel
    below = [file for _, (left, top, *_), file in corners if left < 1 or top < 1]
    if below:
        report.note(
            '{} boxes start below pixel 1, so all corners are read as edges from 0 (--first-pixel 1: as VOC defines)',
            below[0],
            len(below),
        )
        return 0
    return 1
