"""What is wrong with one image file, looked at in full."""

import os
import tempfile
import warnings

import cv2
import numpy as np
from PIL import Image

from mmfocal.datasets.validation import label_maps as label_map_checks
from mmfocal.datasets.validation.issues import Fault, wrong_size
from mmfocal.errors import DataError

# What MMCV's loading as 'color' makes of pixels that are not 8-bit RGB.
MODES = {
    'CMYK': 'CMYK, which loading converts without its colour profile, so colours may be off; convert it to RGB',
    'L': 'grey, which loading repeats to three equal channels',
    'LA': 'grey with transparency, which loading ignores',
    '1': 'black and white, which loading repeats to three equal channels',
    'P': 'of palette colours, which loading converts to RGB',
    'RGBA': 'with transparency, which loading ignores, so what is hidden shows',
}
DEEP = 'of more than 8 bits, of which loading keeps the upper 8; see whether enough is left'
ORIENTATION = 0x112  # the EXIF tag


def image_faults(path, image_id=None, recorded=None):
    """Decodes an image and says what is wrong with it.

    Pillow sees more of a damaged file than OpenCV, which MMCV loads with; both have to read it.

    Args:
        path (str): A local file.
        image_id (int | str, optional): Its id in the annotation file.
        recorded (tuple[int, int], optional): The height and width in px that the annotation file has.

    Returns:
        list[Fault]: Errors and warnings.
    """
    faults = []

    def add(kind, sentence, level='error'):
        faults.append(Fault(kind, f'{path}: {sentence}', path, image_id, level=level))

    try:
        with DecoderMessages() as messages:
            image = _read(path)
            with open(path, 'rb') as file:
                pixels = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_COLOR)
    except Unreadable as fault:
        add(*fault.args)
        return faults
    except cv2.error:
        pixels = None
    if pixels is None:
        add('not an image', 'cannot be decoded by OpenCV, which training loads with; write it again as JPEG or PNG')
        return faults
    if messages.text:
        add(
            'damaged', f'was decoded, but the decoder says "{messages.text}"; look at it, and write it again', 'warning'
        )
    if recorded is not None and pixels.shape[:2] != tuple(recorded):
        add('wrong size', wrong_size(path, image_id, tuple(recorded), pixels.shape[:2]).removeprefix(f'{path}: '))
    elif image.getexif().get(ORIENTATION, 1) not in (0, 1):
        add(
            'EXIF rotation',
            'is rotated by its EXIF tag, which loading applies; see whether its annotations are of the rotated image',
            'warning',
        )
    if image.mode in MODES:
        add('CMYK' if image.mode == 'CMYK' else 'not RGB', f'is {MODES[image.mode]}', 'warning')
    elif image.mode.startswith(('I', 'F')):
        add('16-bit', f'is {DEEP}', 'warning')
    return faults


def label_map_faults(path, image_path, num_classes, first=0, ignore_index=255):
    """Decodes a label map and says what is wrong with it.

    Args:
        path (str): A local file.
        image_path (str): Its image's file.
        num_classes, first, ignore_index: As of `label_map_checks.check_values`.

    Returns:
        list[Fault]: Errors.
    """
    try:
        with DecoderMessages():
            values = np.array(_read(path)).squeeze()
    except Unreadable as fault:
        return [Fault(fault.args[0], f'{path}: {fault.args[1]}', path)]
    values = values.astype(np.uint8) if values.dtype == bool else values
    faults = []
    for kind, check, args in (
        ('label map of another shape', label_map_checks.check_shape, [_loaded_size(image_path)]),
        ('label value beyond the classes', label_map_checks.check_values, [num_classes, first, ignore_index]),
    ):
        try:
            check(values, path, *args)
        except DataError as error:
            faults.append(Fault(kind, str(error), path))
            if values.ndim != 2:
                break
    return faults


def segment_map_faults(path, image_id, recorded, numbers):
    """Decodes a PNG of panoptic segments and says what is wrong with it.

    Args:
        path (str): A local file.
        image_id (int | str): Its image's id.
        recorded (tuple[int, int]): The image's height and width in px.
        numbers (Sequence[int]): Ids of the segments that the annotation file lists.

    Returns:
        list[Fault]: Errors and warnings.
    """
    faults = [fault for fault in image_faults(path, image_id, recorded) if fault.level == 'error']
    if faults:
        return faults
    with DecoderMessages():
        blue, green, red = cv2.split(cv2.imread(path).astype(np.int64))
    shown = set(np.unique(red + 256 * green + 65536 * blue).tolist()) - {0}
    for kind, ids, what in (
        ('unknown segment', shown - set(numbers), 'shows the segments {}, which the annotation file does not list'),
        (
            'segment without pixels',
            set(numbers) - shown,
            'has no pixel of the segments {}, which the annotation file lists',
        ),
    ):
        if ids:
            few = ', '.join(map(str, sorted(ids)[:5])) + (f' and {len(ids) - 5} more' if len(ids) > 5 else '')
            faults.append(
                Fault(kind, f'{path}: {what.format(few)}; export both again', path, image_id, level='warning')
            )
    return faults


class Unreadable(Exception):
    """What is wrong with a file that has no pixels to look at: kind and sentence."""


class DecoderMessages:
    """Catches what the decoders' C code writes to the standard error output: `text`, its first line."""

    def __enter__(self):
        self.file, self.stderr, self.text = tempfile.TemporaryFile(), os.dup(2), ''
        os.dup2(self.file.fileno(), 2)
        return self

    def __exit__(self, *error):
        os.dup2(self.stderr, 2)
        os.close(self.stderr)
        with self.file:
            self.file.seek(0)
            self.text = self.file.readline().decode(errors='replace').strip()


def _loaded_size(path):
    """Height and width in px that an image is loaded with, or None where it has none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of images of more than 89 million pixels
            with Image.open(path) as image:
                turned = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
                return image.size if turned else image.size[::-1]
    except Exception:  # which `image_faults` tells
        return None


def _read(path):
    """A file's image, decoded by Pillow."""
    if not os.path.exists(path):
        raise Unreadable('missing file', 'not found; fetch it again, or remove what names it')
    if not os.path.isfile(path):
        raise Unreadable('not an image', 'is no file; correct its name')
    if not os.path.getsize(path):
        raise Unreadable('empty file', 'has no bytes; fetch it again')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of images of more than 89 million pixels
            image = Image.open(path)
            with image:
                image.load()
        return image
    except PermissionError as error:
        raise Unreadable('unreadable file', 'may not be read; change its permissions') from error
    except Image.DecompressionBombError as error:
        raise Unreadable(
            'too large', 'claims more than 178 million pixels; see whether it is meant to, and write it smaller'
        ) from error
    except Image.UnidentifiedImageError as error:
        raise Unreadable('not an image', 'is not an image; fetch it again') from error
    except Exception as error:  # decoders have many kinds
        kind = 'truncated' if 'truncated' in str(error) else 'damaged'
        raise Unreadable(kind, f'is cut short or damaged ({error}); fetch or write it again') from error
