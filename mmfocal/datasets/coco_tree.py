"""Finds the annotation files and the image folders of a folder in COCO format."""

import os
from dataclasses import dataclass
from pathlib import Path

from mmfocal.datasets.validation.annotations import find_format_issues, read_annotations
from mmfocal.errors import DataError, MissingFileError
from mmfocal.text import join_some

WORDS = dict(train=('train',), val=('val', 'valid', 'validation'), test=('test',))
OTHER_TASKS = ('captions', 'person_keypoints', 'panoptic', 'stuff', 'image_info')  # prefixes of COCO's other files
SAMPLED = 20  # images of a file that are looked for in a folder
DEPTH = 3


@dataclass(frozen=True)
class Split:
    """An annotation file and its images.

    Args:
        ann_file: Path relative to the data set's folder.
        images: Folder that `file_name` counts from, relative to the same and with a final slash; empty for itself.
        classes: Names of the categories in the order of their ids.
        num_images, num_objects: Counts.
        has_masks: Whether every object has an outline.
    """

    ann_file: str
    images: str
    classes: tuple[str, ...]
    num_images: int
    num_objects: int
    has_masks: bool


def find_splits(
    root: str | Path, files: dict[str, str | None] | None = None, folders: dict[str, str | None] | None = None
) -> dict[str, Split]:
    """Finds the splits of a data set.

    Args:
        root: Its folder.
        files: Annotation files that the user names, by split, relative to the folder.
        folders: Image folders that the user names, by split, relative to the folder.

    Returns:
        `train`, `val`, and `test` if there are annotations for it.

    Raises:
        MissingFileError: If the folder, or the file or the images of a split, are not found.
        DataError: If there is more than one candidate, or the classes of splits differ.
    """
    root = Path(root)
    if not root.is_dir():
        raise MissingFileError(f'{root}: folder not found; name the folder of the data set')
    found: dict[str, Split] = {}
    candidates = _annotation_files(root)
    for split in WORDS:
        name = (files or {}).get(split)
        path = _named(root, name, f'--{split}') if name else _choose_file(root, candidates, split)
        if path is not None:
            found[split] = _read(root, path, split, (folders or {}).get(split))
    first, *others = found.values()
    for other in others:
        if other.classes != first.classes:
            differing = sorted(set(other.classes) ^ set(first.classes)) or ['their order']
            raise DataError(
                f'{root}: {first.ann_file} and {other.ann_file} differ in classes ({join_some(differing)}); '
                'export them with the same list'
            )
    return found


def _annotation_files(root: Path) -> list[Path]:
    """Returns the JSON files that may be in COCO format, by their names and sizes."""
    return [path for path in _walk(root, '.json') if not path.name.startswith(OTHER_TASKS)]


def _walk(root: Path, suffix: str) -> list[Path]:
    paths = []
    for folder, folders, names in os.walk(root, followlinks=True):
        depth = len(Path(folder).relative_to(root).parts)
        folders[:] = sorted(name for name in folders if not name.startswith('.') and depth < DEPTH)
        paths += [Path(folder, name) for name in sorted(names) if name.endswith(suffix) and not name.startswith('.')]
    return paths


def _choose_file(root: Path, candidates: list[Path], split: str) -> Path | None:
    matching = [path for path in candidates if _is_named_like(path.relative_to(root), split)]
    if len(matching) > 1:  # a single one is read, and refused, by `_read`
        matching = [path for path in matching if _is_coco(path)]
    names = [path.relative_to(root).as_posix() for path in matching]
    if len(matching) > 1:
        raise DataError(f'{root}: {join_some(names)} may be for {split}; choose one with --{split} FILE')
    if not matching and split != 'test':
        every = [path.relative_to(root).as_posix() for path in candidates if _is_coco(path)]
        there = f'it holds {join_some(every)}' if every else 'it holds no annotation file in COCO format'
        raise MissingFileError(f'{root}: no annotation file for {split}; {there}; name one with --{split} FILE')
    return matching[0] if matching else None


def _is_named_like(path: Path, split: str) -> bool:
    """Returns whether a file's name, or else its folder's, has the word of a split and of no other."""
    for name in (path.stem, path.parent.name):
        words = {key for key, words in WORDS.items() if any(word in name.lower() for word in words)}
        if words:
            return words == {split}
    return False


def _is_coco(path: Path) -> bool:
    try:
        return not find_format_issues(read_annotations(str(path), path.name), path.name)
    except DataError:
        return False


def _named(root: Path, name: str, flag: str) -> Path:
    for path in (root / name, Path(name)):
        if path.exists():
            return path
    raise MissingFileError(f'{flag} {name}: not found in {root}; correct it')


def _read(root: Path, path: Path, split: str, folder: str | None) -> Split:
    content = read_annotations(str(path), str(path))
    issues = find_format_issues(content, str(path), split != 'train')
    if issues:
        raise DataError(issues[0].message)
    annotations = content.get('annotations', [])
    try:
        categories = sorted(content['categories'], key=lambda category: category['id'])
        classes = tuple(str(category['name']) for category in categories)
        names = [str(image['file_name']) for image in content['images']]
        has_masks = bool(annotations) and all(entry.get('segmentation') for entry in annotations)
    except (TypeError, KeyError, AttributeError) as error:
        raise DataError(f'{path}: an entry without {error}; export it again, or run check-dataset') from error
    if not classes:
        raise DataError(f'{path}: its list of categories is empty; export it again')
    images = _image_folder(root, path, split, names, folder)
    return Split(_relative(root, path), images, classes, len(names), len(annotations), has_masks)


def _image_folder(root: Path, path: Path, split: str, names: list[str], folder: str | None) -> str:
    step = max(len(names) // SAMPLED, 1)
    sample = names[::step][:SAMPLED]
    if folder:
        found = [_named(root, folder, f'--{split}-images')]
        if not all((found[0] / name).is_file() for name in sample):
            raise MissingFileError(f'--{split}-images {folder}: has not the images of {path.name}; correct it')
    else:
        found = [place for place in _folders(root) if all((place / name).is_file() for name in sample)]
        others = [name for name in WORDS if name != split]
        of_others = [
            place for place in found if any(_is_named_like(place.relative_to(root) / '_', name) for name in others)
        ]
        if found and len(of_others) == len(found):  # file names may repeat in every split
            place = _relative(root, found[0])
            raise DataError(
                f'{root}: only {place} has files of the names in {path.name}; if they are its images, add '
                f'--{split}-images {place}'
            )
        found = [place for place in found if place not in of_others]
        if len(found) > 1:
            found = [place for place in found if _is_named_like(place.relative_to(root) / '_', split)] or found
    if not found:
        raise MissingFileError(
            f'{root}: no folder has the images of {path.name}, such as {sample[0]}; name it with --{split}-images DIR'
        )
    if len(found) > 1:
        places = [_relative(root, place) for place in found]
        raise DataError(f'{root}: {join_some(places)} have the images of {path.name}; choose with --{split}-images DIR')
    relative = _relative(root, found[0])
    return '' if relative == '.' else f'{relative}/'


def _folders(root: Path) -> list[Path]:
    folders = [root]
    for folder, inner, _ in os.walk(root, followlinks=True):
        depth = len(Path(folder).relative_to(root).parts)
        inner[:] = sorted(name for name in inner if not name.startswith('.') and depth < DEPTH)
        folders += [Path(folder, name) for name in inner]
    return folders


def _relative(root: Path, path: Path) -> str:
    return os.path.relpath(path, root).replace(os.sep, '/')
