"""Finds the images and the label maps of a folder for semantic segmentation."""

from dataclasses import dataclass
from pathlib import Path

from mmfocal.datasets.converters.records import IMAGE_SUFFIXES
from mmfocal.errors import MissingFileError

SPLITS = dict(train=('train', 'training'), val=('val', 'valid', 'validation'))
LABELS = ('labels', 'masks', 'annotations', 'label_maps')


@dataclass(frozen=True)
class LabelMapSplit:
    """Folders of a split, relative to the data set's, and what the images' names end with."""

    images: str
    labels: str
    suffixes: tuple[str, ...]
    num_images: int


def find_label_map_splits(root: str | Path) -> dict[str, LabelMapSplit]:
    """Finds `train` and `val`: `<split>/images` and `<split>/labels`, or `images/<split>` and `labels/<split>`.

    Args:
        root: The data set's folder.

    Raises:
        MissingFileError: If a split is not found.
    """
    root, found = Path(root), {}
    for split, words in SPLITS.items():
        pairs = [(f'{word}/images', f'{word}/{name}') for word in words for name in LABELS]
        pairs += [(f'images/{word}', f'{name}/{word}') for word in words for name in LABELS]
        for images, labels in pairs:
            if (root / images).is_dir() and (root / labels).is_dir():
                files = [path for path in (root / images).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
                suffixes = tuple(sorted({path.suffix for path in files}))
                found[split] = LabelMapSplit(images, labels, suffixes, len(files))
                break
        else:
            raise MissingFileError(
                f'{root}: no images and label maps for {split}; put them into {split}/images and {split}/labels'
            )
    return found


def read_class_names(root: str | Path) -> tuple[str, ...] | None:
    """Returns the names in `classes.txt`, one per line, or None if there is no such file."""
    path = Path(root, 'classes.txt')
    if not path.is_file():
        return None
    lines = path.read_text(encoding='utf-8-sig').splitlines()
    return tuple(line.strip() for line in lines if line.strip())
