"""YOLO: one text file per image with a row `class x y w h` per object, in fractions of the image; or polygons."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

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
    relative_name,
    rotated_rectangle,
    split_folders,
)
from mmfocal.errors import DataError, MissingFileError
from mmfocal.text import join_some

NAME_FILES = ('classes.txt', 'obj.names', 'predefined_classes.txt')
CORNERS = 8  # numbers of a rotated rectangle, and of a polygon of four points


def read(src: Path, settings: Settings, report: Report) -> Source:
    """Reads a data set.

    Args:
        src: Its folder, or its `data.yaml`.
        settings: The user's choices.
        report: Collects errors and notes.

    Raises:
        MissingFileError, DataError: If its classes or its images are not found.
    """
    root = src if src.is_dir() else src.parent
    description = _find_description(src)
    content = _read_description(description) if description else {}
    names = _names(content.get('names'), description) if content else _names_from_file(root)
    _check_count(content, names, description)
    splits = _splits(content, description, root, settings, report) if content else _guess_splits(root, settings, report)
    if not any(splits.values()):
        raise MissingFileError(f'{src}: no image in {", ".join(splits) or "it"}; correct the paths in data.yaml')
    pictures, labels = [], set()
    with_rows = 0
    for split, images in splits.items():
        if len(set(images)) < len(images):
            report.note('{} images are listed twice in one split, and used once', split, len(images) - len(set(images)))
        for image in dict.fromkeys(images):
            label = _label_of(image)
            with report.file():
                if label is None:
                    report.note('{} images have no label file: background', image)
                labels.add(label)
                picture = Picture(relative_name(image, root), label or image, loaded_size(image), image, split)
                rows = _rows(label) if label else []
                if label and not rows:
                    report.note('{} label files are empty: background', label)
                with_rows += bool(rows)
                picture.objects = _objects(rows, picture, names, bool(content.get('kpt_shape')), report)
                pictures.append(picture)
    if labels == {None}:
        raise MissingFileError(f'{src}: no image has a label file; put them beside the images or in labels/')
    _settle_rotated(pictures, settings, report)
    _note_orphans(labels - {None}, report)
    return Source(pictures, names, has_splits=len(splits) > 1)


def _find_description(src: Path) -> Path | None:
    """Returns the YAML file, darknet's `.data` file, or None if the folder has neither."""
    if src.is_file():
        return src
    for pattern in ('data.yaml', 'data.yml', 'dataset.yaml', '*.yaml', '*.yml', '*.data', 'data/*.data'):
        found = sorted(src.glob(pattern))
        if len(found) > 1:
            raise DataError(f'{src}: holds {join_some(path.name for path in found)}; name one of these files')
        if found:
            return found[0]
    return None


def _read_description(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding='utf-8-sig')
        if path.suffix == '.data':  # of darknet: key = value
            pairs = (line.split('=', 1) for line in text.splitlines() if '=' in line and not line.startswith('#'))
            content = {key.strip(): value.strip() for key, value in pairs}
            if 'names' in content:
                file = _first_existing([path.parent / content['names'], path.parent / Path(content['names']).name])
                content['names'] = _lines(file) if file else None
            content['val'] = content.pop('valid', None)
            content.pop('classes', None)
            return content
        content = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeError) as error:
        raise DataError(f'{path}: not YAML ({" ".join(str(error).split())[:80]}); correct it') from error
    if not isinstance(content, dict):
        raise DataError(f'{path}: holds no settings; write names, train and val')
    return content


def _names(names: Any, path: Path) -> list[str]:
    """Returns the classes, of a list or of a dict by number."""
    if isinstance(names, dict):
        try:
            numbered = {int(key): str(name) for key, name in names.items()}
        except (TypeError, ValueError) as error:
            raise DataError(f'{path}: names has keys that are not numbers; number the classes from 0') from error
        gaps = [index for index in range(len(numbered)) if index not in numbered]
        if gaps:
            raise DataError(f'{path}: names has no class {gaps[0]}; number the classes from 0 without gaps')
        names = [numbered[index] for index in range(len(numbered))]
    if not isinstance(names, list) or not names:
        raise DataError(f'{path}: has no list names; write the classes in the order of their numbers')
    names = [str(name).strip() for name in names]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f'{path}: names has {twice!r} twice; give each class a name of its own')
    return names


def _names_from_file(root: Path) -> list[str]:
    for folder in (root, root / 'labels', root / 'data', *split_folders(root).values()):
        for name in NAME_FILES:
            if (folder / name).is_file():
                return _names(_lines(folder / name), folder / name)
    raise MissingFileError(
        f'{root}: no data.yaml, {" or ".join(NAME_FILES[:2])}; write the classes there, one per line'
    )


def _check_count(content: dict, names: list[str], path: Path | None) -> None:
    count = content.get('nc')
    if count is not None and count != len(names):
        raise DataError(f'{path}: nc is {count}, but names has {len(names)} classes; correct one of them')


def _splits(content: dict, description: Path, root: Path, settings: Settings, report: Report) -> dict[str, list[Path]]:
    """Returns the images of each split that the description names."""
    base = description.parent
    given = content.get('path')
    roots = [base / str(given), Path(str(given)), base] if given else [base]
    roots = [folder for folder in dict.fromkeys(roots) if folder.is_dir()]
    if given and roots == [base] and (base / str(given)).resolve() != base.resolve():
        report.note(f'path {given} does not exist, so paths are those below {base}', description)
    splits = {}
    for split in ('train', 'val', 'test'):
        entries = content.get(split)
        if not entries:
            continue
        images = []
        for entry in [entries] if isinstance(entries, str) else entries:
            # exports of Roboflow write ../train/images for the folder beside data.yaml
            plain = str(entry).removeprefix('../')
            places = [folder / name for folder in (*roots, root) for name in (str(entry), plain)]
            place = _first_existing(places)
            if place is None and split == 'test':
                report.note(f'test: {entry} does not exist and is left out', description)
                continue
            if place is None:
                raise MissingFileError(
                    f'{description}: {split}: {entry} not found below {roots[0]}; correct path or it'
                )
            images += _images(place, roots, settings)
        if images or split != 'test':
            splits[split] = images
    return splits


def _images(place: Path, roots: list[Path], settings: Settings) -> list[Path]:
    """Returns the images in a folder, or those that a text file lists."""
    if place.is_dir():
        return files_below(place, settings, IMAGE_SUFFIXES)
    images = []
    for line in _lines(place):
        path = _first_existing([folder / line.removeprefix('./') for folder in (place.parent, *roots)])
        if path is None:
            raise MissingFileError(f'{place}: lists {line}, which does not exist; correct the list')
        images.append(path)
    return images


def _guess_splits(root: Path, settings: Settings, report: Report) -> dict[str, list[Path]]:
    """Returns the images by the folders that are named like splits, or all as `train`."""
    for folder in (root / 'images', root):
        folders = split_folders(folder)
        if 'train' in folders:
            splits: dict[str, list[Path]] = {split: [] for split in folders}
            for split, path in files_in_splits(folders, folder, settings, IMAGE_SUFFIXES, report):
                splits[split].append(path)
            return splits
    return dict(train=files_below(root, settings, IMAGE_SUFFIXES))


def _label_of(image: Path) -> Path | None:
    """Returns an image's label file: `labels/` in place of the last `images/` of its path, or beside the image."""
    parts = list(image.parts)
    if 'images' in parts[:-1]:
        index = len(parts) - 2 - parts[:-1][::-1].index('images')
        parts[index] = 'labels'
    return _first_existing([Path(*parts).with_suffix('.txt'), image.with_suffix('.txt')])


def _rows(label: Path) -> list[list[str]]:
    try:
        return [row for row in map(str.split, label.read_text(encoding='utf-8-sig').splitlines()) if row]
    except UnicodeError as error:
        raise DataError(f'{label}: not text; write one row of numbers per object') from error


def _objects(
    rows: list[list[str]], picture: Picture, names: list[str], has_keypoints: bool, report: Report
) -> list[Object]:
    objects, problems = [], []
    for line, row in enumerate(rows, 1):
        try:
            objects.append(_object(row, picture.size, names, has_keypoints))
        except DataError as error:
            problems.append(f'line {line}: {error}')
    if problems:
        raise DataError(
            f'{picture.source}: {len(problems)} of {len(rows)} rows are invalid, the first in {problems[0]}'
        )
    if has_keypoints:
        report.note('{} objects have keypoints, which are left out', picture.source, len(rows))
    return objects


def _object(row: list[str], size: tuple[int, int], names: list[str], has_keypoints: bool) -> Object:
    index, *values = (number(value, 'a value') for value in row)
    if index != int(index) or not 0 <= index < len(names):
        raise DataError(f'class {row[0]}, but classes are numbered 0 to {len(names) - 1}; correct it or names')
    found = Object(names[int(index)])
    width, height = size
    if has_keypoints and len(values) >= 4:
        values = values[:4]
    if any(abs(value) > 2 for value in values):
        raise DataError(
            f'values up to {max(values, key=abs):g}, which are no fractions of the image; divide by its size'
        )
    if len(values) == 4:
        x, y, w, h = values
        if w < 0 or h < 0:
            raise DataError(f'width {w:g} and height {h:g}; write class x_center y_center width height')
        found.box = ((x - w / 2) * width, (y - h / 2) * height, w * width, h * height)
    elif len(values) >= 6 and len(values) % 2 == 0:
        found.polygons = [[value * (height if i % 2 else width) for i, value in enumerate(values)]]
    else:
        raise DataError(f'{len(row)} numbers; write class and 4 numbers (box) or x y of 3 or more points (polygon)')
    return found


def _settle_rotated(pictures: list[Picture], settings: Settings, report: Report) -> None:
    """Treats polygons as rotated rectangles if every polygon of the data set has four points."""
    outlined = [found for picture in pictures for found in picture.objects if found.polygons]
    if not outlined or any(len(found.polygons[0]) != CORNERS for found in outlined):
        return
    for picture in pictures:
        with report.file():
            for index, found in enumerate(picture.objects):
                if found.polygons:
                    try:
                        corners = found.polygons[0]
                        picture.objects[index] = rotated_rectangle(replace(found), corners, settings.rotated)
                    except DataError as error:
                        raise DataError(f'{picture.source}: {error}') from error
                    kinds = dict(
                        box='{} rotated rectangles (8 numbers) became upright boxes; --rotated polygon keeps them',
                        polygon='{} rotated rectangles (8 numbers) became polygons',
                    )
                    report.note(kinds[settings.rotated], picture.source)


def _note_orphans(labels: set[Path], report: Report) -> None:
    for folder in sorted({label.parent for label in labels}):
        for path in sorted(folder.glob('*.txt')):
            if path not in labels and path.name not in NAME_FILES and path.stem not in ('train', 'val', 'test'):
                report.note('{} label files have no image in the splits', path)


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(encoding='utf-8-sig').splitlines() if line.strip()]


def _first_existing(paths: Any) -> Path | None:
    return next((path for path in paths if path.exists()), None)
