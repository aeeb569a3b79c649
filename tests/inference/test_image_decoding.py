"""Images of all kinds are loaded as what they show."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from mmfocal.errors import DataError
from mmfocal.inference.images import decode_image, image_to_bgr

HEIGHT, WIDTH = 24, 40


@pytest.fixture(scope='module')
def rgb():
    """Four flat fields, which JPEG keeps, in an image that differs when it is turned."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:8], pixels[8:, :16] = (200, 40, 90), (10, 250, 30)
    pixels[8:, 16:32], pixels[8:, 32:] = (60, 60, 60), (0, 0, 255)
    return pixels


def saved(pixels, suffix='PNG', mode=None, **options):
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels, mode)
    image.save(file, suffix, **options)
    return file.getvalue()


def both(content):
    """The image as decoded from a file, and as converted from Pillow's, RGB."""
    return decode_image(content, 'a')[..., ::-1], image_to_bgr(Image.open(io.BytesIO(content)))[..., ::-1]


@pytest.mark.parametrize('kind', ['PNG', 'BMP', 'TIFF', 'WEBP', 'PPM', 'GIF'])
def test_formats(rgb, kind):
    for found in both(saved(rgb, kind, **dict(lossless=True) if kind == 'WEBP' else {})):
        np.testing.assert_array_equal(found, rgb)
        assert found.dtype == np.uint8


@pytest.mark.parametrize('turn', range(1, 9))
def test_exif_rotation(rgb, turn):
    """The file holds turned pixels and the tag that turns them back."""
    stored = Image.fromarray(rgb)
    undo = {
        2: 'FLIP_LEFT_RIGHT',
        3: 'ROTATE_180',
        4: 'FLIP_TOP_BOTTOM',
        5: 'TRANSPOSE',
        6: 'ROTATE_90',
        7: 'TRANSVERSE',
    }
    undo[8] = 'ROTATE_270'
    stored = stored.transpose(Image.Transpose[undo[turn]]) if turn in undo else stored
    exif = Image.Exif()
    exif[0x0112] = turn
    for found in both(saved(stored, 'JPEG', quality=100, subsampling=0, exif=exif)):
        assert found.shape == rgb.shape
        np.testing.assert_allclose(found[2:6, 2:-2], rgb[2:6, 2:-2], atol=4)
        np.testing.assert_allclose(found[12:, 34:], rgb[12:, 34:], atol=4)


def test_grey_and_black_and_white(rgb):
    grey = rgb[..., 1].copy()
    expected = np.repeat(grey[..., None], 3, 2)
    for content in (saved(grey), saved(np.dstack([grey, grey]), mode='LA'), saved(grey, 'TIFF')):
        for found in both(content):
            np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(image_to_bgr(grey), expected)
    np.testing.assert_array_equal(image_to_bgr(grey[..., None]), expected)
    for found in both(saved(Image.fromarray(grey > 100))):
        np.testing.assert_array_equal(found[..., 0], np.where(grey > 100, 255, 0))


@pytest.mark.parametrize('suffix', ['.png', '.tiff'])
def test_16_bits_are_scaled(rgb, suffix):
    deep = rgb.astype(np.uint16) * 257  # 255 becomes 65535
    content = cv2.imencode(suffix, deep[..., ::-1])[1].tobytes()
    np.testing.assert_array_equal(decode_image(content, 'a')[..., ::-1], rgb)
    np.testing.assert_array_equal(image_to_bgr(deep)[..., ::-1], rgb)
    grey = cv2.imencode(suffix, deep[..., 1])[1].tobytes()
    for found in both(grey):
        np.testing.assert_array_equal(found, np.repeat(rgb[..., 1:2], 3, 2))


def test_transparency_is_dropped_and_palettes_are_colours(rgb):
    alpha = np.dstack([rgb, np.full(rgb.shape[:2], 128, np.uint8)])
    np.testing.assert_array_equal(image_to_bgr(alpha)[..., ::-1], rgb)
    colours, indices = np.unique(rgb.reshape(-1, 3), axis=0, return_inverse=True)
    palette = Image.fromarray(indices.reshape(rgb.shape[:2]).astype(np.uint8), 'P')
    palette.putpalette(colours.flatten().tolist())
    for content in (saved(alpha), saved(palette), saved(palette, transparency=0), saved(alpha, 'WEBP', lossless=True)):
        for found in both(content):
            np.testing.assert_array_equal(found, rgb)


@pytest.mark.parametrize('kind', ['JPEG', 'TIFF'])
def test_cmyk(rgb, kind):
    for found in both(saved(Image.fromarray(rgb).convert('CMYK'), kind, **dict(quality=100) if kind == 'JPEG' else {})):
        np.testing.assert_allclose(found[2:6].astype(int), rgb[2:6].astype(int), atol=6)
        np.testing.assert_allclose(found[12:, 4:12].astype(int), rgb[12:, 4:12].astype(int), atol=6)


def test_what_is_no_image_is_one_sentence(rgb):
    whole = saved(rgb, 'JPEG')
    floats = cv2.imencode('.tiff', rgb.astype(np.float32) / 255)[1].tobytes()
    for content, words in (
        (b'', 'no bytes'),
        (b'hello' * 99, 'not an image'),
        (whole[: len(whole) // 2], 'truncated'),
        (saved(rgb)[:70], 'truncated'),
        (floats, 'floating-point'),
    ):
        with pytest.raises(DataError, match=f'^street.jpg: .*{words}'):
            decode_image(content, 'street.jpg')
    for image, words in (
        (rgb / 255, 'float64'),
        (rgb[None], 'shape'),
        (np.zeros((0, 4, 3), np.uint8), 'shape'),
        (np.zeros((4, 4, 2), np.uint8), 'shape'),
        ('text', 'str is no image'),
        (Image.fromarray(np.zeros((4, 4), np.float32)), 'floating-point'),
        (Image.fromarray(np.full((4, 4), 1 << 20, np.int32)), '32 bits'),
    ):
        with pytest.raises(DataError, match=words):
            image_to_bgr(image)
