"""What every reader returns, and what it reports."""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from mmfocal.datasets.validation.files import read_exif_orientation, read_image_size
from mmfocal.errors import DataError

T = TypeVar('T')
IMAGE_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
SPLITS = dict(train='train', training='train', default='train', val='val', valid='val', validation='val', test='test')
ROTATED = ('box', 'polygon', 'refuse')


@dataclass
class Object:
    """An annotated object.

    Args:
        label: Its class.
        box: x, y, width and height in px from the image's upper left corner; None if only polygons or a mask tell.
        polygons: Outlines of its parts, each x1, y1, x2, y2, … in px.
        mask: Run lengths as pycocotools encodes them, instead of polygons.
        ignore: Whether it counts neither for nor against a detection, as COCO's crowds.
        attributes: Written into the annotation.
    """

    label: str
    box: tuple[float, float, float, float] | None = None
    polygons: list[list[float]] = field(default_factory=list)
    mask: dict | None = None
    ignore: bool = False
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass
class Picture:
    """An image and its objects.

    Args:
        name: Its path below `images/` of the result.
        source: The file that annotates it.
        size: Width and height in px, as loading sees it (after EXIF rotation).
        path: The image, or None if the annotation file has its bytes as `content`.
        split: `train`, `val`, `test` or the source's own name.
        objects: Its objects; empty for a background image.
        content: The embedded image file.
    """

    name: str
    source: Path
    size: tuple[int, int]
    path: Path | None
    split: str = 'train'
    objects: list[Object] = field(default_factory=list)
    content: bytes | None = None


@dataclass
class Source:
    """A data set that a reader has read.

    Args:
        pictures: Its images.
        classes: The source's list of classes in its order; None if it has none.
        has_splits: Whether the source says which images are for training.
    """

    pictures: list[Picture]
    classes: list[str] | None = None
    has_splits: bool = True


@dataclass(frozen=True)
class Settings:
    """What a user decides about reading.

    Args:
        rotated: What becomes of rotated rectangles: `box`, their upright bounding box; `polygon`, their corners as a
            mask as well; `refuse`, an error.
        first_pixel: Pascal VOC: the number of an image's first pixel, 1 or 0. Default: 1, as VOC defines, unless a box
            starts at 0.
        without: A folder below the source that is not read: the result's.
    """

    rotated: str = 'box'
    first_pixel: int | None = None
    without: Path | None = None


class Report:
    """Collects one error per file, and notes that are counted by kind."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.notes: dict[str, tuple[int, str]] = {}

    def note(self, kind: str, where: object, count: int = 1) -> None:
        """Counts what is changed or left out.

        Args:
            kind: What, as `{} boxes are …`, in which the count takes the place of {}.
            where: The file, of which the first is reported.
            count: How many.
        """
        before, first = self.notes.get(kind, (0, str(where)))
        if count:
            self.notes[kind] = before + count, first

    def lines(self) -> list[str]:
        """Returns a line for each note."""
        return [f'{kind.format(count)} (first: {where})' for kind, (count, where) in self.notes.items()]

    @contextmanager
    def file(self) -> Iterator[None]:
        """Records a DataError of the block, which reads one file, as that file's error."""
        try:
            yield
        except DataError as error:
            self.errors.append(str(error))


def read_each(items: Iterable[Any], read: Callable[[Any], T | None], file: Path, what: str) -> list[T]:
    """Reads the entries of a file one by one.

    Args:
        items: The entries.
        read: Returns what an entry becomes, or None to leave it out; raises DataError with what is wrong.
        file: For the message.
        what: What entries are called in it.

    Returns:
        The results that are not None.

    Raises:
        DataError: With the number of invalid entries and what is wrong with the first.
    """
    results, problems = [], []
    items = list(items)
    for number, item in enumerate(items, 1):
        try:
            results.append(read(item))
        except DataError as error:
            problems.append(f'{number}: {error}')
    if problems:
        first = f'the first is number {problems[0]}'
        raise DataError(f'{file}: {len(problems)} of {len(items)} {what} are invalid, {first}')
    return [result for result in results if result is not None]


def loaded_size(path: Path, recorded: tuple[int, int] | None = None) -> tuple[int, int]:
    """Returns an image's width and height in px as loading sees it, after EXIF rotation.

    Args:
        path: The image.
        recorded: Width and height in its annotation file, if that has them.

    Raises:
        DataError: If it is no image, or has another size than recorded.
    """
    size = read_image_size(str(path))
    if size is None:
        raise DataError(f'{path}: not an image; fetch it again, or remove its annotations')
    rotated = read_exif_orientation(str(path)) in (5, 6, 7, 8)
    loaded = size if rotated else size[::-1]
    if recorded and tuple(recorded) != loaded:
        why = ' after its EXIF rotation' if rotated else ''
        raise DataError(
            f'{path}: {loaded[0]} x {loaded[1]} px{why}, but its annotations are for {recorded[0]} x {recorded[1]} px; '
            'export them again'
        )
    return loaded


def number(value: Any, what: str) -> float:
    """Returns a finite number.

    Raises:
        DataError: If the value is none.
    """
    try:
        result = float(value)
    except (TypeError, ValueError):
        result = math.nan
    if not math.isfinite(result):
        raise DataError(f'{what} is {str(value)[:40]!r}; write a finite number')
    return result


def rotated_rectangle(found: Object, corners: list[float], how: str) -> Object:
    """Gives an object the outline of a rotated rectangle.

    Args:
        found: The object, which is changed.
        corners: x1, y1, …, x4, y4 in px.
        how: As `Settings.rotated`.

    Raises:
        DataError: If `how` is 'refuse'.
    """
    if how == 'refuse':
        raise DataError(f'a rotated rectangle of class {found.label!r}; choose --rotated box or polygon')
    found.box = bounding_box([corners])
    found.polygons = [corners] if how == 'polygon' else []
    return found


def turned_corners(center: tuple[float, float], size: tuple[float, float], degrees: float) -> list[float]:
    """Returns the corners of a rectangle after a clockwise turn about its centre, as x1, y1, …, x4, y4."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = []
    for dx, dy in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)):
        x, y = dx * size[0], dy * size[1]
        corners += [center[0] + x * cos - y * sin, center[1] + x * sin + y * cos]
    return corners


def ellipse(
    center: tuple[float, float], radii: tuple[float, float], degrees: float = 0, points: int = 64
) -> list[float]:
    """Returns an ellipse, turned clockwise about its centre, as a polygon x1, y1, x2, y2, …"""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    polygon = []
    for i in range(points):
        x = radii[0] * math.cos(2 * math.pi * i / points)
        y = radii[1] * math.sin(2 * math.pi * i / points)
        polygon += [center[0] + x * cos - y * sin, center[1] + x * sin + y * cos]
    return polygon


def bounding_box(polygons: list[list[float]]) -> tuple[float, float, float, float]:
    """Returns x, y, width and height of the box around polygons."""
    xs = [x for polygon in polygons for x in polygon[::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def join_parts(parts: list[Object]) -> Object:
    """Returns one object of several parts, such as those that labelme's and CVAT's groups join.

    Args:
        parts: Of one class; boxes become polygons where another part has an outline.
    """
    if len(parts) == 1:
        return parts[0]
    joined = Object(parts[0].label, ignore=any(part.ignore for part in parts))
    for part in parts:
        joined.attributes |= part.attributes
        joined.polygons += part.polygons
    masks = [part.mask for part in parts if part.mask]
    boxes = [part.box for part in parts if part.box and not part.polygons]
    outlines = [[x, y, x + w, y, x + w, y + h, x, y + h] for x, y, w, h in boxes]
    if masks:
        raise DataError(f'a group of class {joined.label!r} has masks; merge its parts before export')
    if joined.polygons:
        joined.polygons += outlines
    else:
        joined.box = bounding_box(outlines)
    return joined


def split_folders(src: Path) -> dict[str, Path]:
    """Returns the folders of a data set that are named like splits, by the split."""
    found = {}
    for name, split in SPLITS.items():
        if (src / name).is_dir():
            found.setdefault(split, src / name)
    return found


def split_name(name: str) -> str:
    """Returns `train`, `val` or `test` for the usual names of splits, others as they are."""
    return SPLITS.get(name.lower(), name)


def is_image(path: Path) -> bool:
    """Returns whether a path has an image's suffix."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def files_below(folder: Path, settings: Settings, suffixes: tuple[str, ...]) -> list[Path]:
    """Returns the files below a folder with such suffixes, sorted; hidden ones and the result's folder left out."""
    return sorted(
        path
        for path in folder.rglob('*')
        if path.suffix.lower() in suffixes
        and not any(part.startswith('.') for part in path.relative_to(folder).parts)
        and not (settings.without and path.is_relative_to(settings.without))
        and path.is_file()
    )


def files_in_splits(
    folders: dict[str, Path], root: Path, settings: Settings, suffixes: tuple[str, ...], report: Report
) -> list[tuple[str, Path]]:
    """Returns the files below folders with their splits, and notes how many lie beside these folders.

    Args:
        folders: Of `split_folders`.
        root: The folder that holds them.
        settings: The user's choices.
        suffixes: Of the files.
        report: Counts those that lie elsewhere.
    """
    found = [(split, path) for split, folder in folders.items() for path in files_below(folder, settings, suffixes)]
    others = sorted(set(files_below(root, settings, suffixes)) - {path for _, path in found})
    if found and others:
        names = ', '.join(sorted(folder.name for folder in folders.values()))
        report.note(f'{{}} files outside the folders of the splits ({names}) were left out', others[0], len(others))
    return found


def relative_name(path: Path, root: Path) -> str:
    """Returns an image's name below `images/`: its path below the source without a leading `images/`, or its name."""
    path, root = Path(os.path.abspath(path)), Path(os.path.abspath(root))  # without ..
    if not path.is_relative_to(root):
        return path.name
    name = path.relative_to(root).as_posix()
    return name.removeprefix('images/').removeprefix('JPEGImages/')
