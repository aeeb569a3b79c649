"""An image's size from the first bytes of its file, in some ten microseconds."""

import struct
import warnings

from PIL import Image

from mmfocal.errors import DataError

MOST_PIXELS = 178956970  # above which Pillow does not decode either


def size_in_header(path):
    """Reads the size that an image file claims.

    Decoders believe it: a damaged header, or one made for the purpose, can cost them minutes and gigabytes.

    Args:
        path (str): A local file.

    Returns:
        tuple[int, int] | None: Height and width in px before any EXIF rotation, or None where it cannot be read.

    Raises:
        DataError: If it is more than Pillow takes on, in formats other than JPEG and PNG.
    """
    try:
        with open(path, 'rb') as file:
            start = file.read(24)
            if start[:8] == b'\x89PNG\r\n\x1a\n' and start[12:16] == b'IHDR':
                return struct.unpack('>II', start[16:])[::-1]
            if start[:2] == b'\xff\xd8':
                return _jpeg_size(file)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of more than half of that
            with Image.open(path) as image:
                return image.height, image.width
    except Image.DecompressionBombError as error:
        raise DataError(f'{path}: {too_large()}') from error
    except Exception:  # what loading it will tell; Pillow's readers have many kinds
        return None


def too_large():
    """What to say of a size that nobody means."""
    return (
        f'its header claims more than {MOST_PIXELS // 10**6} million pixels; it is damaged, or has to be cut '
        'into smaller images'
    )


def _jpeg_size(file):
    file.seek(2)
    while True:
        marker = file.read(4)
        while marker[0] == 0xFF and marker[1] == 0xFF:  # markers may be padded
            marker = marker[1:] + file.read(1)
        if marker[0] != 0xFF:
            return None
        if 0xC0 <= marker[1] <= 0xCF and marker[1] not in (0xC4, 0xC8, 0xCC):
            return struct.unpack('>xHH', file.read(5))
        file.seek((marker[2] << 8 | marker[3]) - 2, 1)
