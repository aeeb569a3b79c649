"""Label maps and images that are bad stop training with one sentence, or are skipped and counted."""

import logging

import cv2
import numpy as np
import pytest
from mmengine.logging import MMLogger

from mmfocal.datasets.label_maps import LabelMapDataset
from mmfocal.errors import DataError, MissingFileError


@pytest.mark.parametrize(
    'name, content, sentence',
    [
        ('images/b.jpg', b'', 'not an image, or damaged'),
        ('images/b.jpg', b'404 Not Found', 'not an image, or damaged'),
        ('images/b.jpg', None, 'not found; fetch it again'),
        ('masks/b.png', b'', 'not an image, or damaged'),
        ('masks/b.png', None, 'not found; fetch it again'),
        ('masks/b.png', np.full((48, 32), 7, np.uint8), 'holds the label values 7, but the 3 classes'),
        ('masks/b.png', np.zeros((48, 31), np.uint8), '31 x 48 px, but its image has 32 x 48 px'),
        ('masks/b.png', np.zeros((48, 32, 3), np.uint8), 'a label map has one channel'),
    ],
)
def test_what_turns_bad_while_training(config, tmp_path, name, content, sentence):
    stops, skips = (LabelMapDataset(**config, bad_data=policy) for policy in ('stop', 'skip'))
    tests = LabelMapDataset(**config, bad_data='skip', test_mode=True)
    path = tmp_path / name
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        cv2.imwrite(str(path), content)
    for dataset in (stops, tests):
        with pytest.raises((DataError, MissingFileError), match=f'/{name}: .*{sentence}'):
            dataset[1]
    np.random.seed(0)
    sample = skips[1]['data_samples']
    assert not sample.img_path.endswith('b.jpg') and {text.split(': ')[0] for text in sample.skipped} == {str(path)}


def test_missing_files_are_left_out(config, tmp_path, monkeypatch):
    logger = MMLogger.get_instance(tmp_path.name, log_file=str(tmp_path / 'log.txt'))
    monkeypatch.setattr(MMLogger, 'get_current_instance', classmethod(lambda cls: logger))
    (tmp_path / 'masks/b.png').unlink()
    (tmp_path / 'split.txt').write_text('a\nb\nabsent\nmore/c\n')
    dataset = LabelMapDataset(**config, ann_file='split.txt', bad_data='skip')
    assert [dataset.get_data_info(i)['img_path'].split('images/')[1] for i in range(len(dataset))] == [
        'a.jpg',
        'more/c.jpg',
    ]
    logging.shutdown()
    text = (tmp_path / 'log.txt').read_text()
    line = "bad_data='skip' leaves out 1 × missing file; the first: "
    assert f'{line}{tmp_path}/images/absent.jpg: image not found (1 of 4 used from ' in text
    assert f'{line}{tmp_path}/masks/b.png: label map not found (1 of 3 images have none)' in text
    with pytest.raises(MissingFileError):
        LabelMapDataset(**config, ann_file='split.txt', bad_data='skip', test_mode=True)


def test_a_header_that_claims_too_much(config, tmp_path):
    path = tmp_path / 'images/b.jpg'
    content = path.read_bytes()
    start = content.find(b'\xff\xc0')
    path.write_bytes(content[: start + 5] + b'\x70\x00\x70\x00' + content[start + 9 :])
    with pytest.raises(DataError, match='/b.jpg: its header claims more than 178 million pixels; it is damaged'):
        LabelMapDataset(**config)[1]
