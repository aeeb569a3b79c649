"""Each issue of an image, a label map or a PNG of segments is told by kind; what the loader copes with is a warning."""

import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from mmfocal.datasets.validation.files import read_image_size
from mmfocal.datasets.validation.images import find_image_issues, find_label_map_issues, find_segment_map_issues
from mmfocal.errors import DataError

SIZE = 24, 40  # height, width


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)


def told(issues):
    for issue in issues:
        assert issue.message.startswith(f'{issue.file}: ') and '\n' not in issue.message
    return [(issue.level, issue.kind) for issue in issues]


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.webp', '.bmp'])
def test_a_sound_image(tmp_path, pixels, suffix):
    path = str(tmp_path / f'a{suffix}')
    cv2.imwrite(path, pixels)
    assert find_image_issues(path, 7, SIZE) == []
    assert read_image_size(path) == SIZE


@pytest.mark.parametrize('suffix', ['.jpg', '.png'])
@pytest.mark.parametrize('share', [0.5, 0.9, 0.97])
def test_a_truncated_image(tmp_path, pixels, suffix, share):
    path = tmp_path / f'a{suffix}'
    cv2.imwrite(str(path), pixels)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    issues = find_image_issues(str(path), 7, SIZE)
    assert told(issues) == [('error', 'truncated')] and issues[0].image == 7
    assert 'is truncated or damaged' in issues[0].message


@pytest.mark.parametrize(
    'content, kind', [(b'', 'empty file'), (b'<html>404 Not Found</html>', 'not an image'), (None, 'missing file')]
)
def test_what_is_no_image(tmp_path, content, kind):
    path = tmp_path / 'a.jpg'
    if content is not None:
        path.write_bytes(content)
    assert told(find_image_issues(str(path))) == [('error', kind)]
    assert told(find_label_map_issues(str(path), str(path), 3)) == [('error', kind)]
    assert told(find_segment_map_issues(str(path), 1, SIZE, [])) == [('error', kind)]
    assert read_image_size(str(path)) is None


def test_a_folder_in_an_images_place(tmp_path):
    assert told(find_image_issues(str(tmp_path))) == [('error', 'not an image')]


def test_a_jpeg_whose_data_is_damaged_within(tmp_path, pixels):
    """OpenCV loads it, and says on the standard error output that it has left something out."""
    path = tmp_path / 'a.jpg'
    cv2.imwrite(str(path), pixels)
    content = path.read_bytes()
    path.write_bytes(content[:-2] + bytes(range(1, 30)) + content[-2:])
    issues = find_image_issues(str(path))
    assert told(issues) == [('warning', 'damaged')] and 'extraneous bytes before marker' in issues[0].message


def test_a_wrong_recorded_size(tmp_path, pixels):
    path = str(tmp_path / 'a.png')
    cv2.imwrite(path, pixels)
    issues = find_image_issues(path, 7, (24, 41))
    assert told(issues) == [('error', 'wrong size')]
    assert '40 x 24 px, but its annotation file records 41 x 24 px for image 7; correct' in issues[0].message


def test_exif_rotation(tmp_path, pixels):
    """It is applied by loading, so the recorded size has to be that of the rotated image."""
    path, exif = str(tmp_path / 'a.jpg'), Image.Exif()
    exif[0x112] = 6
    Image.fromarray(pixels).save(path, exif=exif)
    issues = find_image_issues(path, 7, SIZE)
    assert told(issues) == [('error', 'wrong size')] and 'rotated by its EXIF tag' in issues[0].message
    assert told(find_image_issues(path, 7, SIZE[::-1])) == [('warning', 'EXIF rotation')]
    assert read_image_size(path) == SIZE
    (issue,) = find_image_issues(path, 7, SIZE, 'unchanged')
    assert issue.level == 'warning' and 'which loading does not apply' in issue.message
    (issue,) = find_image_issues(path, 7, SIZE[::-1], 'unchanged')
    assert issue.kind == 'wrong size' and '(rotated by its EXIF tag, which loading does not apply)' in issue.message


@pytest.mark.parametrize(
    'mode, suffix, kind',
    [
        ('CMYK', '.jpg', 'CMYK'),
        ('L', '.jpg', 'not RGB'),
        ('L', '.png', 'not RGB'),
        ('P', '.png', 'not RGB'),
        ('RGBA', '.png', 'not RGB'),
        ('LA', '.png', 'not RGB'),
        ('1', '.png', 'not RGB'),
        ('I;16', '.png', '16-bit'),
    ],
)
def test_other_colours_are_warnings(tmp_path, pixels, mode, suffix, kind):
    path = str(tmp_path / f'a{suffix}')
    if mode == 'I;16':
        Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(path)
    else:
        Image.fromarray(pixels).convert(mode).save(path)
    assert told(find_image_issues(path, 7, SIZE)) == [('warning', kind)]
    assert bool(find_image_issues(path, 7, SIZE, 'unchanged')) == (mode == 'CMYK')


@pytest.mark.parametrize('suffix', ['.png', '.tif'])
@pytest.mark.parametrize('channels', [1, 3])
def test_16_bits(tmp_path, pixels, suffix, channels):
    path = str(tmp_path / f'a{suffix}')
    pixels = pixels[..., :channels].squeeze()
    cv2.imwrite(path, pixels.astype(np.uint16) * 257)
    (issue,) = find_image_issues(path, 7, SIZE)
    assert (issue.level, issue.kind) == ('warning', '16-bit') and issue.message.endswith(
        'upper 8; convert it to 8 bits'
    )
    cv2.imwrite(path, pixels.astype(np.uint16) * 16)
    (issue,) = find_image_issues(path, 7, SIZE)
    assert 'but no value is above 40' in issue.message and 'loaded nearly black; scale it' in issue.message


@pytest.mark.parametrize('channels', [1, 3])
def test_floats(tmp_path, pixels, channels):
    path = str(tmp_path / 'a.tif')
    cv2.imwrite(path, pixels[..., :channels].squeeze().astype(np.float32) / 255)
    assert told(find_image_issues(path, 7, SIZE)) == [('error', 'floating point')]
    if int(cv2.__version__.split('.')[0]) >= 5:  # OpenCV 4 warns that it cannot handle the samples, and returns some
        assert cv2.imread(path, cv2.IMREAD_COLOR) is None, 'training would stop'
    assert told(find_image_issues(path, 7, SIZE, 'unchanged')) == []
    assert told(find_image_issues(path, 7, (24, 41), 'unchanged')) == [('error', 'wrong size')]


def test_a_link_to_nowhere(tmp_path):
    (tmp_path / 'a.jpg').symlink_to(tmp_path / 'gone.jpg')
    (issue,) = find_image_issues(str(tmp_path / 'a.jpg'))
    assert issue.kind == 'missing file' and f'is a link to {tmp_path}/gone.jpg, which does not exist' in issue.message


@pytest.mark.parametrize('name', ['a\ud800b.jpg', 'a\0b.jpg'])
def test_a_name_that_no_file_can_have(tmp_path, name):
    assert told(find_image_issues(str(tmp_path / name))) == [('error', 'missing file')]


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.bmp'])
def test_a_header_that_claims_too_much(tmp_path, pixels, suffix):
    path = tmp_path / f'a{suffix}'
    cv2.imwrite(str(path), pixels)
    content = bytearray(path.read_bytes())
    if suffix == '.jpg':
        start = content.find(b'\xff\xc0')
        content[start + 5 : start + 9] = b'\xff\x00\xff\x00'
    elif suffix == '.png':
        content[16:24] = b'\x00\x01\x00\x00' * 2
        content[29:33] = struct.pack('>I', zlib.crc32(content[12:29]))
    else:
        content[18:26] = b'\x00\x00\x01\x00' * 2
    path.write_bytes(content)
    assert told(find_image_issues(str(path))) == [('error', 'too large')]
    with pytest.raises(DataError, match='its header claims more than 178 million pixels; '):
        read_image_size(str(path))


@pytest.fixture
def label_map(tmp_path, pixels):
    cv2.imwrite(str(tmp_path / 'a.jpg'), pixels)

    def write(values):
        Image.fromarray(values).save(tmp_path / 'a.png')
        return find_label_map_issues(str(tmp_path / 'a.png'), str(tmp_path / 'a.jpg'), 3)

    return write


def test_label_maps(label_map):
    sound = np.full(SIZE, 2, np.uint8)
    sound[0] = 255
    assert label_map(sound) == []
    assert label_map(sound > 2) == []
    assert told(label_map(sound + np.uint8(1))) == [('error', 'label value beyond the classes')]
    assert told(label_map(sound[:-1])) == [('error', 'label map of another shape')]
    assert told(label_map(np.stack([sound] * 3, 2))) == [('error', 'label map of another shape')]
    both = label_map(sound[:-1] + np.uint8(9))
    assert told(both) == [('error', 'label map of another shape'), ('error', 'label value beyond the classes')]
    assert 'holds the label values 8, 11, but the 3 classes have the values 0 to 2' in both[1].message


def test_label_maps_of_a_damaged_image_are_checked_too(label_map, tmp_path):
    (tmp_path / 'a.jpg').write_bytes(b'no image')
    assert told(label_map(np.full(SIZE, 3, np.uint8))) == [('error', 'label value beyond the classes')]


def test_a_label_map_has_the_size_of_the_rotated_image(label_map, tmp_path, pixels):
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(pixels).save(tmp_path / 'a.jpg', exif=exif)
    assert label_map(np.zeros(SIZE[::-1], np.uint8)) == []
    assert told(label_map(np.zeros(SIZE, np.uint8))) == [('error', 'label map of another shape')]


def test_segments(tmp_path):
    path, shown = str(tmp_path / 'a.png'), np.zeros((*SIZE, 3), np.uint8)
    shown[:4], shown[4:8] = (7, 1, 0), (0, 0, 1)  # RGB
    Image.fromarray(shown).save(path)
    assert find_segment_map_issues(path, 1, SIZE, [263, 65536]) == []
    issues = find_segment_map_issues(path, 1, SIZE, [263, 5])
    assert told(issues) == [('warning', 'unknown segment'), ('warning', 'segment without pixels')]
    assert (
        'the segments 65536, which the annotation file lacks' in issues[0].message
        and 'annotated segments 5; ' in issues[1].message
    )
    assert told(find_segment_map_issues(path, 1, SIZE[::-1], [263])) == [('error', 'wrong size')]


def test_nothing_is_left_open(tmp_path, pixels):
    path = str(tmp_path / 'a.jpg')
    cv2.imwrite(path, pixels)
    before = len(os.listdir('/proc/self/fd'))
    for _ in range(3):
        find_image_issues(path)
        read_image_size(path)
    assert len(os.listdir('/proc/self/fd')) == before
