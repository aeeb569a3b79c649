"""Issues of image files, label maps and PNGs of segments, each decoded in full."""

import os
import tempfile
import warnings
from collections.abc import Collection
from typing import Any, BinaryIO

import cv2
import numpy as np
from PIL import Image

from mmfocal.datasets.validation.files import ORIENTATION, read_exif_orientation, read_image_size
from mmfocal.datasets.validation.issues import Issue, errors_of, quote_some
from mmfocal.datasets.validation.label_maps import find_value_issues
from mmfocal.errors import DataError

# What loading as 'color' makes of pixels that are not 8-bit RGB.
MODES = {
    'CMYK': 'is CMYK, which is loaded without its colour profile, so colours may be off; convert it to RGB',
    'L': 'is grey, which is loaded as three equal channels',
    'LA': 'is grey with transparency, which loading ignores',
    '1': 'is black and white, which is loaded as three equal channels',
    'P': 'has palette colours, which are loaded as RGB',
    'RGBA': 'has transparency, which loading ignores, so hidden colours show',
}

FLOATS = 'floating point', 'has floating-point values, which OpenCV does not load as colours; convert it to 8 bits'
DARK = 1 << 13  # of 16 bits: an image with lower values only is loaded with at most 31 of 255


def find_image_issues(
    path: str, image_id: Any = None, recorded: tuple[int, int] | None = None, color_type: str = 'color'
) -> list[Issue]:
    """Decodes an image and returns what is wrong with it.

    Pillow detects more damage than OpenCV, which MMCV loads with; both have to read the file.

    Args:
        path: Local file.
        image_id: Its id in the annotation file.
        recorded: Height and width in px in the annotation file.
        color_type: As of `LoadImageFromFile`; other types than `color` may load other modes and depths as they are.
    """
    issues = []
    converts, unchanged = color_type == 'color', color_type == 'unchanged'
    flag = cv2.IMREAD_UNCHANGED if unchanged else cv2.IMREAD_COLOR

    def add(kind: str, message: str, level: str = 'error') -> None:
        issues.append(Issue(kind, f'{path}: {message}', path, image_id, level=level))

    try:
        with DecoderMessages() as messages:
            image = _decode(path)
            with open(path, 'rb') as file:
                pixels = cv2.imdecode(np.frombuffer(file.read(), np.uint8), flag)
    except Unreadable as error:
        values = _read_unchanged(path) if unchanged and error.args[0] == 'not an image' else None
        if values is not None:  # more bands than Pillow reads
            if recorded is not None and values.shape[:2] != tuple(recorded):
                message = wrong_size_message(path, image_id, tuple(recorded), values.shape[:2])
                issues.append(Issue('wrong size', message, path, image_id))
            return issues
        if not has_float_values(path):  # which Pillow reads only in grey
            add(*error.args)
            return issues
        add(*FLOATS)
        return issues
    except cv2.error:
        pixels = None
    if pixels is None and has_float_values(path):
        add(*FLOATS)
        return issues
    if pixels is None:
        add('not an image', 'cannot be decoded by OpenCV, which training loads with; write it again as JPEG or PNG')
        return issues
    if messages.text:
        add('damaged', f'was decoded, but the decoder reports "{messages.text}"; write it again', 'warning')
    if recorded is not None and pixels.shape[:2] != tuple(recorded):
        message = wrong_size_message(path, image_id, tuple(recorded), pixels.shape[:2])
        issues.append(Issue('wrong size', message, path, image_id))
    elif image.getexif().get(ORIENTATION, 1) not in (0, 1):
        does, which = ('does not apply', 'stored') if unchanged else ('applies', 'rotated')
        add(
            'EXIF rotation',
            f'is rotated by its EXIF tag, which loading {does}; check that its annotations fit the {which} image',
            'warning',
        )
    if image.mode in MODES and (converts or image.mode == 'CMYK'):
        add('CMYK' if image.mode == 'CMYK' else 'not RGB', MODES[image.mode], 'warning')
    if not unchanged and _bits_per_channel(path, image) > 8:
        add('16-bit', _describe_depth(path), 'warning')
    return issues


def find_label_map_issues(
    path: str, image_path: str, num_classes: int, first: int = 0, ignore_index: int = 255
) -> list[Issue]:
    """Decodes a label map and returns what is wrong with it.

    Args:
        path: Local file.
        image_path: Its image.
        num_classes, first, ignore_index: As of `label_maps.find_value_issues`.
    """
    try:
        with DecoderMessages():
            values = np.array(_decode(path)).squeeze()
    except Unreadable as error:
        return [Issue(error.args[0], f'{path}: {error.args[1]}', path)]
    values = values.astype(np.uint8) if values.dtype == bool else values
    return find_value_issues(values, path, num_classes, first, ignore_index, _loaded_size(image_path), image_path)


def find_segment_map_issues(
    path: str, image_id: Any, recorded: tuple[int, int], segment_ids: Collection[int] | None = None
) -> list[Issue]:
    """Decodes a PNG of panoptic segments and returns what is wrong with it.

    Args:
        path: Local file.
        image_id: Its image's id.
        recorded: The image's height and width in px.
        segment_ids: Ids of the segments in the annotation file. Default: not compared.
    """
    errors = errors_of(find_image_issues(path, image_id, recorded))
    if errors or segment_ids is None:
        return errors
    with DecoderMessages():
        blue, green, red = cv2.split(cv2.imread(path).astype(np.int64))
    shown = set(np.unique(red + 256 * green + 65536 * blue).tolist()) - {0}
    issues = []
    for kind, ids, what in (
        ('unknown segment', shown - set(segment_ids), 'shows the segments {}, which the annotation file lacks'),
        ('segment without pixels', set(segment_ids) - shown, 'has no pixel of the annotated segments {}'),
    ):
        if ids:
            message = f'{path}: {what.format(quote_some(ids))}; export both again'
            issues.append(Issue(kind, message, path, image_id, level='warning'))
    return issues


def wrong_size_message(path: str, image_id: Any, recorded: tuple[int, int], loaded: tuple[int, int]) -> str:
    """Returns the message about an image that has another size than its annotation file records.

    Args:
        path: Image.
        image_id: Its id in the annotation file.
        recorded, loaded: Heights and widths in px.
    """
    why = ''
    if tuple(loaded) == tuple(recorded)[::-1] and _swaps_sides(path):
        does = 'does not apply' if read_image_size(path) == tuple(loaded) else 'applies'
        why = f' (rotated by its EXIF tag, which loading {does})'
    return (
        f'{path}: {loaded[1]} x {loaded[0]} px{why}, but its annotation file records {recorded[1]} x {recorded[0]} px '
        f'for image {image_id!r}; correct the size and the annotations there, or the image'
    )


class Unreadable(Exception):
    """Kind and message of what is wrong with a file that cannot be decoded."""


class DecoderMessages:
    """Captures what the decoders' C code writes to stderr: `text` is its first line."""

    def __enter__(self) -> 'DecoderMessages':
        self.file, self.stderr, self.text = tempfile.TemporaryFile(), os.dup(2), ''
        os.dup2(self.file.fileno(), 2)
        return self

    def __exit__(self, *error: object) -> None:
        os.dup2(self.stderr, 2)
        os.close(self.stderr)
        with self.file:
            self.file.seek(0)
            self.text = self.file.readline().decode(errors='replace').strip()


def _bits_per_channel(path: str, image: Image.Image) -> int:
    """Returns the bits of a channel in the file; Pillow converts 16-bit colours to 8 bits without a word."""
    if image.format == 'PNG':
        with open(path, 'rb') as file:
            return file.read(25)[24]
    if image.format == 'TIFF' and hasattr(image, 'tag_v2'):
        return 0 if image.mode.startswith('F') else max(image.tag_v2.get(258, (8,)))
    return 16 if image.mode.startswith('I') else 8


def _describe_depth(path: str) -> str:
    values = _read_unchanged(path)
    highest = 65535 if values is None else int(values.max())
    what = 'has 16 bits per channel, of which loading keeps the upper 8'
    if highest < DARK:
        return f'{what}, but no value is above {highest}, so it is loaded nearly black; scale it to 8 bits'
    return f'{what}; convert it to 8 bits'


def has_float_values(path: str) -> bool:
    """Returns whether an image file has floating-point values."""
    values = _read_unchanged(path)
    return values is not None and values.dtype.kind == 'f'


def _read_unchanged(path: str) -> np.ndarray | None:
    """Returns the values in an image file, or None if OpenCV does not read it."""
    try:
        with open(path, 'rb') as file, DecoderMessages():
            return cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    except (OSError, ValueError, cv2.error):  # ValueError: a name that no file can have
        return None


def _swaps_sides(path: str) -> bool:
    return read_exif_orientation(path) in (5, 6, 7, 8)


def _loaded_size(path: str) -> tuple[int, int] | None:
    """Returns height and width in px after EXIF rotation, or None if the header cannot be read."""
    try:
        size = read_image_size(path)
    except DataError:  # which `find_image_issues` reports
        return None
    return size[::-1] if size and _swaps_sides(path) else size


def _decode(path: str) -> Image.Image:
    """Returns an image decoded by Pillow.

    Raises:
        Unreadable: With the kind and the message of what is wrong.
    """
    if os.path.islink(path) and not os.path.exists(path):
        raise Unreadable('missing file', f'is a link to {os.readlink(path)}, which does not exist; restore that file')
    if not os.path.exists(path):
        remedy = 'write / for the backslashes' if '\\' in path else 'fetch it again, or remove what names it'
        raise Unreadable('missing file', f'not found; {remedy}')
    if not os.path.isfile(path):
        raise Unreadable('not an image', 'is not a file; correct its name')
    if not os.path.getsize(path):
        raise Unreadable('empty file', 'has no bytes; fetch it again')
    return decode_with_pillow(path)


def decode_with_pillow(file: str | BinaryIO) -> Image.Image:
    """Returns an image decoded in full.

    Args:
        file: Path or binary file.

    Raises:
        Unreadable: With the kind and the message of what is wrong.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)
            image = Image.open(file)
            with image:
                image.load()
        return image
    except PermissionError as error:
        raise Unreadable('unreadable file', 'may not be read; change its permissions') from error
    except Image.DecompressionBombError as error:
        raise Unreadable('too large', 'claims more than 178 million pixels; split it into tiles') from error
    except Image.UnidentifiedImageError as error:
        raise Unreadable('not an image', 'is not an image; fetch it again') from error
    except Exception as error:  # Pillow's decoders raise many types
        kind = 'truncated' if 'truncated' in str(error) else 'damaged'
        raise Unreadable(kind, f'is truncated or damaged ({error}); fetch or write it again') from error
