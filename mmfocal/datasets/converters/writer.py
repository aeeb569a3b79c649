"""Writes what a reader has read as COCO: `annotations/<split>.json` and `images/`, or nothing at all."""

import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmfocal.datasets.converters import masks
from mmfocal.datasets.converters.records import Object, Picture, Report, Source, bounding_box
from mmfocal.errors import ConfigError, DataError, SavingError
from mmfocal.files import partial_path
from mmfocal.text import join_some

BEYOND = 0.1  # of a side that a box or an outline may extend beyond its image, and is clipped; more is an error
ORDER = ('train', 'val', 'test')


def choose_classes(source: Source, wanted: Sequence[str] | None, report: Report) -> list[str]:
    """Returns the classes in the order of their ids, and leaves out the objects of others.

    Args:
        source: What a reader returned, whose pictures are changed.
        wanted: The classes that the user names. Default: the source's list in its order, then the labels that it
            lacks; without a list, all labels, sorted.
        report: Counts what is left out.

    Raises:
        ConfigError: If a class is named that the source does not have, or twice.
        DataError: If there is no object.
    """
    labels = Counter(found.label for picture in source.pictures for found in picture.objects)
    known = list(source.classes or ())
    known += sorted(labels.keys() - set(known))
    if wanted is None:
        if not known:
            raise DataError('no image has an object; name the folder with the annotations')
        return known
    absent = [name for name in wanted if name not in known]
    if absent:
        raise ConfigError(f'--classes: {join_some(absent)}: no such class; the data have {join_some(known, 20)}')
    if len(set(wanted)) < len(wanted):
        raise ConfigError('--classes: a class is named twice; name each once')
    for picture in source.pictures:
        for found in picture.objects:
            if found.label not in wanted:
                report.note(f'{{}} objects of class {found.label} were left out (--classes)', picture.source)
        picture.objects = [found for found in picture.objects if found.label in wanted]
    return list(wanted)


def fit_objects(source: Source, report: Report) -> None:
    """Clips objects to their images, and leaves out those without area and those that are listed twice.

    Args:
        source: What a reader returned; pictures whose objects do not fit are removed from it.
        report: Gets an error for each of those, and counts what is changed.
    """
    pictures = []
    for picture in source.pictures:
        with report.file():
            kept, seen = [], set()
            for found in picture.objects:
                if not _fit(found, picture, report):
                    report.note('{} objects are smaller than a pixel and were left out', picture.source)
                    continue
                key = (found.label, found.box, repr(found.polygons), repr(found.mask))
                if key in seen:
                    report.note('{} objects were listed twice and are written once', picture.source)
                    continue
                seen.add(key)
                kept.append(found)
            picture.objects = kept
            pictures.append(picture)
    source.pictures = pictures


def _fit(found: Object, picture: Picture, report: Report) -> bool:
    """Clips an object to its image, and sets its box; returns whether anything of it is left.

    Raises:
        DataError: If it extends far beyond.
    """
    width, height = picture.size
    if found.mask:
        found.box = masks.box(found.mask)
        return found.box[2] >= 1 and found.box[3] >= 1
    outlines = found.polygons
    if not outlines:
        x, y, w, h = found.box
        outlines = [[x, y, x + w, y + h]]
    beyond = _beyond(outlines, width, height)
    if beyond > BEYOND:
        x, y, w, h = bounding_box(outlines)
        raise DataError(
            f'{picture.source}: {found.label} at x {x:.0f}-{x + w:.0f}, y {y:.0f}-{y + h:.0f} is far outside '
            f'{picture.name} ({width} x {height} px); correct it, or the image'
        )
    if beyond > 1e-6:
        report.note('{} objects extend beyond their image and were clipped', picture.source)
    outlines = [
        [round(min(max(value, 0.0), (width, height)[i % 2]), 3) for i, value in enumerate(outline)]
        for outline in outlines
    ]
    if found.polygons:
        found.polygons = outlines
    if found.polygons or found.box:
        x, y, w, h = bounding_box(outlines)
        found.box = (x, y, round(w, 3), round(h, 3))
    return found.box[2] >= 1 and found.box[3] >= 1


def _beyond(outlines: list[list[float]], width: int, height: int) -> float:
    """Returns by how much outlines extend beyond their image, as a fraction of its side."""
    x, y, w, h = bounding_box(outlines)
    return max(-x / width, (x + w) / width - 1, -y / height, (y + h) / height - 1, 0.0)


def split_off(source: Source, fraction: float) -> None:
    """Moves a fraction of a source without splits from `train` to `val`, the same images each time.

    Args:
        source: What a reader returned.
        fraction: Of the images.

    Raises:
        ConfigError: If the source has splits, or a split would be empty.
    """
    if source.has_splits:
        raise ConfigError('--val: the data have splits of their own; leave it out')
    number = round(fraction * len(source.pictures))
    if not 0 < number < len(source.pictures):
        raise ConfigError(f'--val {fraction:g}: leaves a split of {len(source.pictures)} images empty; choose another')
    names = sorted(picture.name for picture in source.pictures)
    chosen = set(random.Random(0).sample(names, number))
    for picture in source.pictures:
        picture.split = 'val' if picture.name in chosen else 'train'


def write_coco(
    source: Source, classes: Sequence[str], dst: Path, images: str, description: str, report: Report
) -> dict[str, dict[str, Any]]:
    """Writes the data set.

    Args:
        source: After `fit_objects`.
        classes: Of `choose_classes`.
        dst: Folder to create; may exist if it is empty.
        images: `link` for relative symbolic links to the images, `copy` for copies.
        description: Of the file's `info`.
        report: Counts images in several splits.

    Returns:
        The annotations of each split.

    Raises:
        SavingError: If the folder exists and is not empty, or cannot be written.
        DataError: If two images would have one name.
    """
    _check_names(source.pictures, report)
    names = sorted(
        {picture.split for picture in source.pictures},
        key=lambda name: (name not in ORDER, ORDER.index(name) if name in ORDER else 0, name),
    )
    splits = {
        name: _annotations([picture for picture in source.pictures if picture.split == name], classes, description)
        for name in names
    }
    without = sum(not entry['segmentation'] for coco in splits.values() for entry in coco['annotations'])
    total = sum(len(coco['annotations']) for coco in splits.values())
    if 0 < without < total:
        report.note('{} objects have a box but no outline, so that masks cannot be trained', 'all', without)
    for coco in splits.values():
        for entry in coco['annotations']:
            if not entry['segmentation']:
                del entry['segmentation']
    with new_folder(dst) as folder:
        (folder / 'annotations').mkdir()
        for name, coco in splits.items():
            (folder / 'annotations' / f'{name}.json').write_text(json.dumps(coco), encoding='utf-8')
        for picture in {picture.name: picture for picture in source.pictures}.values():
            _put_image(picture, folder, dst, images)
    return splits


def _check_names(pictures: list[Picture], report: Report) -> None:
    first: dict[str, Picture] = {}
    for picture in pictures:
        other = first.setdefault(picture.name, picture)
        if other is picture:
            continue
        if other.path != picture.path:
            raise DataError(f'{picture.path} and {other.path}: two images of one name; rename one')
        report.note('{} images are in several splits', picture.name)


def _annotations(pictures: list[Picture], classes: Sequence[str], description: str) -> dict[str, Any]:
    ids = {name: number for number, name in enumerate(classes, 1)}
    images, annotations = [], []
    for image_id, picture in enumerate(pictures, 1):
        width, height = picture.size
        images.append(dict(id=image_id, file_name=picture.name, width=width, height=height))
        for found in picture.objects:
            segmentation: Any = found.mask or found.polygons
            mask = found.mask or (masks.encode_polygons(found.polygons, height, width) if found.polygons else None)
            if found.ignore and found.polygons:
                segmentation = mask  # the masks of crowds are run lengths
            annotation = dict(
                id=len(annotations) + 1,
                image_id=image_id,
                category_id=ids[found.label],
                bbox=list(found.box),
                area=masks.area(mask) if mask else round(found.box[2] * found.box[3], 3),
                iscrowd=int(found.ignore),
                segmentation=segmentation,
            )
            if found.attributes:
                annotation['attributes'] = found.attributes
            annotations.append(annotation)
    categories = [dict(id=number, name=name) for name, number in ids.items()]
    return dict(info=dict(description=description), images=images, annotations=annotations, categories=categories)


def check_is_new(dst: Path) -> None:
    """Checks that a folder is absent or empty.

    Raises:
        SavingError: If it is not.
    """
    if dst.exists() and (not dst.is_dir() or any(dst.iterdir())):
        raise SavingError(f'{dst}: exists and is not an empty folder; name a new one, or remove it')


@contextmanager
def new_folder(dst: Path) -> Iterator[Path]:
    """Creates a folder that takes its place only when it is complete.

    Args:
        dst: The folder, absent or empty.

    Returns:
        A context with the folder to fill, beside the other.

    Raises:
        SavingError: If there is something at `dst`, or the disk refuses.
    """
    check_is_new(dst)
    partial = partial_path(dst.absolute())
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        os.replace(partial, dst)
    except OSError as error:
        raise SavingError(f'{dst}: cannot be written: {error.strerror or error}; choose another folder') from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _put_image(picture: Picture, folder: Path, dst: Path, images: str) -> None:
    target = folder / 'images' / picture.name
    target.parent.mkdir(parents=True, exist_ok=True)
    if picture.path is None:
        target.write_bytes(picture.content or b'')
    elif images == 'copy':
        shutil.copyfile(picture.path, target)
    else:
        # `folder` becomes `dst`, which lies in the same folder
        final = dst.absolute() / 'images' / picture.name
        os.symlink(os.path.relpath(picture.path.resolve(), final.parent.resolve()), target)
