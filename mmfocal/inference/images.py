"""Images of all kinds as what models are trained on: 8-bit BGR, upright."""

import io
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps

from mmfocal.datasets.validation.images import FLOATS, Unreadable, decode_with_pillow
from mmfocal.errors import DataError

_TIFF = (b'II*\0', b'MM\0*')


def decode_image(content: bytes, name: str) -> np.ndarray:
    """Decodes an image file as training loads it.

    OpenCV applies the EXIF rotation, repeats grey channels, keeps the upper 8 of 16 bits, drops transparency, and
    converts palettes and CMYK to colours. Pillow detects damage, and decodes what OpenCV cannot.

    Args:
        content: All bytes of the file.
        name: Its name, for messages.

    Returns:
        (H, W, 3), uint8, BGR.

    Raises:
        DataError: If the file is no image, is damaged, or has floating-point values.
    """
    if not content:
        raise DataError(f'{name}: has no bytes; fetch it again')
    try:
        image = decode_with_pillow(io.BytesIO(content))
    except Unreadable as error:
        image, reason = None, error.args[1]
    data = np.frombuffer(content, np.uint8)
    if content.startswith(_TIFF) and _has_floats(data):
        raise DataError(f'{name}: {FLOATS[1]}')
    if image is None:
        raise DataError(f'{name}: {reason}')
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except cv2.error:
        pixels = None
    return image_to_bgr(image, name) if pixels is None else pixels


def image_to_bgr(image: Any, name: str = 'image') -> np.ndarray:
    """Converts an image in memory.

    Args:
        image: An image of Pillow, or an array: (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA, uint8 or uint16.
        name: For messages.

    Returns:
        (H, W, 3), uint8, BGR. Of 16 bits these are the upper 8; transparency is dropped.

    Raises:
        DataError: If it is of another kind.
    """
    if isinstance(image, Image.Image):
        image = _pillow_to_array(image, name)
    if not isinstance(image, np.ndarray):
        raise DataError(f'{name}: {type(image).__name__} is no image; pass a path, a NumPy array or an image of Pillow')
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or not image.size:
        raise DataError(f'{name}: an array of shape {image.shape} is no image; pass (H, W, 3), RGB')
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    if image.dtype != np.uint8:
        raise DataError(f'{name}: values are {image.dtype}; scale them to 0–255 and pass uint8')
    image = np.repeat(image, 3, 2) if image.shape[2] == 1 else image[..., 2::-1]
    return np.ascontiguousarray(image)


def _pillow_to_array(image: Image.Image, name: str) -> np.ndarray:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith('F'):
        raise DataError(f'{name}: has floating-point values; scale them to 0–255 and convert it to RGB')
    if image.mode.startswith('I'):  # 16 bits, which `convert` would clip
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise DataError(f'{name}: has values of 32 bits; scale them to 0–255 and convert it to RGB')
        return values.astype(np.uint16)
    try:
        return np.asarray(image.convert('RGB'))
    except (ValueError, OSError) as error:  # of modes such as LAB; of a file that is damaged
        raise DataError(f'{name}: cannot be converted to RGB ({error}); convert it before') from error


def _has_floats(data: np.ndarray) -> bool:
    try:
        values = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return False
    return values is not None and values.dtype.kind == 'f'
