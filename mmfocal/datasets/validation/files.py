"""Whether the files and folders of a data set exist, and the size that an image claims before it is decoded."""

import os
import os.path as osp
import warnings
from collections.abc import Sequence

from PIL import Image

from mmfocal.errors import DataError, MissingFileError

MAX_PIXELS = 2 * Image.MAX_IMAGE_PIXELS  # Pillow refuses larger images as decompression bombs
TOO_LARGE = (
    f'its header claims more than {MAX_PIXELS // 10**6} million pixels; it is damaged, or has to be split into tiles'
)
ORIENTATION = 0x112  # the EXIF tag
# The environment variables that configs read data_root from, and their defaults.
ROOTS = dict(
    ADE20K_ROOT='data/ade/ADEChallengeData2016/',
    CITYSCAPES_ROOT='data/cityscapes/',
    COCO_ROOT='data/coco/',
    IMAGENET_ROOT='data/imagenet/',
    SHAPES_ROOT='data/shapes/',
)


def is_local(path: str, *backend_args: dict | None) -> bool:
    """Returns whether MMEngine reads a path from the local disk with these arguments of its file backends."""
    return '://' not in path and all((args or {}).get('backend', 'local') == 'local' for args in backend_args)


def check_exists(path: str, data_root: str | None, key: str) -> None:
    """Checks that a folder or file of a data set exists.

    Args:
        path: Local path, `data_root` included.
        data_root: The data set's folder, or an empty string.
        key: Config key that names the path, e.g. `data_prefix.img_path`.

    Raises:
        MissingFileError: If `path`, or the `data_root` that it lies in, does not exist.
    """
    if osp.exists(path):
        return
    if not data_root or not path.startswith(data_root):
        raise MissingFileError(f'{path}: not found; correct {key}')
    name, remedy = 'data_root', 'correct data_root'
    for variable, default in ROOTS.items():
        if osp.normpath(data_root) == osp.normpath(os.environ.get(variable) or default):
            name, remedy = variable, f'set {variable}'
    if not osp.isdir(data_root):
        raise MissingFileError(f'{name}={data_root}: folder not found; {remedy}')
    raise MissingFileError(f'{name}={data_root}: {path[len(data_root) :].lstrip("/")} not found; {remedy} or {key}')


def find_missing(paths: Sequence[str]) -> list[int]:
    """Returns the indices of paths that do not exist; each folder is listed once."""
    folders: dict[str, set[str]] = {}
    missing = []
    for index, path in enumerate(paths):
        folder, file_name = osp.split(path)
        if folder not in folders:
            try:
                with os.scandir(folder or '.') as entries:  # links may lead nowhere
                    folders[folder] = {
                        entry.name for entry in entries if not entry.is_symlink() or osp.exists(entry.path)
                    }
            except (OSError, ValueError):  # absent, not permitted, or an invalid name
                folders[folder] = set()
        # File systems may match names in another case or Unicode form.
        if file_name not in folders[folder] and not osp.exists(path):
            missing.append(index)
    return missing


def read_image_size(path: str) -> tuple[int, int] | None:
    """Reads the size that an image file claims in its header, without decoding it.

    A damaged or malicious header would cost a decoder minutes and gigabytes.

    Args:
        path: Local file.

    Returns:
        Height and width in px before any EXIF rotation, or None if the header cannot be read.

    Raises:
        DataError: If the header claims more pixels than Pillow decodes.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return image.height, image.width
    except Image.DecompressionBombError as error:
        raise DataError(f'{path}: {TOO_LARGE}') from error
    except Exception:  # Pillow's readers raise many types; decoding reports what is wrong
        return None


def read_exif_orientation(path: str) -> int:
    """Returns an image's EXIF orientation, 1 (upright) if it has none or cannot be read; above 4 it swaps the sides."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return image.getexif().get(ORIENTATION, 1)
    except Exception:  # as above
        return 1
