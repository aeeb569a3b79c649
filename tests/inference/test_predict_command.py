"""`mmfocal predict`, from sources to files."""

import json
import sys

import cv2
import numpy as np
import pytest
from checkpoints import CLASSES, low_threshold, panoptic_config, save_checkpoint
from media import write_video
from mmengine.config import Config
from pycocotools.coco import COCO

from mmfocal.cli import main
from mmfocal.datasets.shapes import make_image
from mmfocal.inference import Predictor, outputs


def predict(monkeypatch, *args):
    monkeypatch.setattr(sys, 'argv', ['mmfocal', 'predict', *map(str, args)])
    main()


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """Checkpoints of each kind, two folders with images of equal names, a video."""
    root = tmp_path_factory.mktemp('predict')
    save_checkpoint(root / 'boxes.pth', low_threshold('atss_focal_nano_shapes'), dict(classes=CLASSES))
    save_checkpoint(root / 'masks.pth', low_threshold('mask_rcnn_focal_nano_shapes'), dict(classes=CLASSES))
    save_checkpoint(root / 'semantic.pth', 'semantic_fpn_focal_nano_shapes')
    meta = dict(classes=CLASSES, thing_classes=CLASSES[:2], stuff_classes=CLASSES[2:])
    save_checkpoint(root / 'panoptic.pth', panoptic_config(), meta)
    rng = np.random.default_rng(0)
    for name in ('one/a.png', 'one/b.png', 'two/a.png'):
        (root / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(root / name), make_image(rng, (64, 70))[0])
    write_video(root / 'clip.mp4')
    return root


@pytest.fixture
def at_root(root, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    return tmp_path / 'out'


def read(path):
    return json.loads(path.read_text())


def test_boxes(at_root, monkeypatch, capsys):
    predict(monkeypatch, 'boxes.pth', 'one', 'two', '--out', at_root, '--score-thr', 0, '--batch-size', 2)
    printed = capsys.readouterr().out
    assert '3 images in' in printed and 'images per second' in printed and 'predictions.json: 21' in printed
    assert sorted(path.name for path in (at_root / 'pictures').iterdir()) == ['a.jpg', 'a_2.jpg', 'b.jpg']
    images = read(at_root / 'images.json')
    assert [image['file_name'] for image in images['images']] == ['one/a.png', 'one/b.png', 'two/a.png']
    assert images['categories'] == [dict(id=i, name=name) for i, name in enumerate(CLASSES, 1)]
    results = COCO(str(at_root / 'images.json')).loadRes(str(at_root / 'predictions.json'))
    expected = Predictor('boxes.pth', score_thr=0)('two/a.png')
    found = results.loadAnns(results.getAnnIds(imgIds=3))
    np.testing.assert_allclose([one['score'] for one in found], expected.scores, atol=1e-4)
    assert [one['category_id'] - 1 for one in found] == expected.labels.tolist()
    boxes = np.array([one['bbox'] for one in found])
    np.testing.assert_allclose(np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]), expected.boxes, atol=0.01)
    predict(monkeypatch, 'boxes.pth', 'one/a.png', '--out', at_root, '--score-thr', 1, '--classes', *'abcd')
    assert read(at_root / 'predictions.json') == [] and read(at_root / 'images.json')['categories'][0]['name'] == 'a'


def test_masks(at_root, monkeypatch):
    predict(monkeypatch, 'masks.pth', 'one/a.png', '--out', at_root, '--score-thr', 0, '--no-pictures')
    assert not (at_root / 'pictures').exists()
    results = COCO(str(at_root / 'images.json')).loadRes(str(at_root / 'predictions.json'))
    masks = np.array([results.annToMask(one) for one in results.loadAnns(results.getAnnIds())], bool)
    np.testing.assert_array_equal(masks, Predictor('masks.pth', score_thr=0)('one/a.png').masks)


def test_label_maps(at_root, monkeypatch):
    predict(monkeypatch, 'semantic.pth', 'one', 'two', '--out', at_root)
    found = cv2.imread(str(at_root / 'label_maps/a_2.png'), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(found, Predictor('semantic.pth')('two/a.png').label_map)
    categories = read(at_root / 'images.json')['categories']
    assert categories[:2] == [dict(id=0, name='background'), dict(id=1, name='circle')]
    assert not (at_root / 'predictions.json').exists()


def test_panoptics(at_root, monkeypatch):
    predict(monkeypatch, 'panoptic.pth', 'one', '--out', at_root)
    content, expected = read(at_root / 'panoptic.json'), Predictor('panoptic.pth')('one/b.png')
    annotation = content['annotations'][1]
    assert [image['id'] for image in content['images']] == [1, 2] and annotation['image_id'] == 2
    pixels = cv2.imread(str(at_root / 'panoptic' / annotation['file_name'])).astype(int)
    ids = pixels[..., 2] + 256 * pixels[..., 1] + 65536 * pixels[..., 0]
    np.testing.assert_array_equal(ids, expected.panoptic)
    things = {one['id']: one['isthing'] for one in content['categories']}
    assert things == {1: 1, 2: 1, 3: 0, 4: 0}
    for info, segment in zip(annotation['segments_info'], expected.segments, strict=True):
        left, top, width, height = info['bbox']
        mask = ids == info['id']
        assert info['area'] == mask.sum() == mask[top : top + height, left : left + width].sum()
        assert mask[top].any() and mask[:, left + width - 1].any() and info['category_id'] == segment.label + 1


def test_videos(at_root, monkeypatch, capsys):
    predict(monkeypatch, 'boxes.pth', 'clip.mp4', 'one/a.png', '--out', at_root, '--score-thr', 0)
    assert 'videos/clip.mp4: 6\n  pictures/: 1' in capsys.readouterr().out
    capture = cv2.VideoCapture(str(at_root / 'videos/clip.mp4'))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 6 and capture.get(cv2.CAP_PROP_FPS) == 10
    assert [image['file_name'] for image in read(at_root / 'images.json')['images']][5:] == ['clip.mp4#5', 'one/a.png']
    assert [path.name for path in (at_root / 'videos').iterdir()] == ['clip.mp4']


def test_unreadable_files_are_passed_over(at_root, tmp_path, monkeypatch, capsys):
    (tmp_path / 'bad.png').write_text('no image')
    with pytest.raises(SystemExit) as end:
        predict(monkeypatch, 'boxes.pth', tmp_path / 'bad.png', 'one', '--out', at_root, '--batch-size', 4)
    out, err = capsys.readouterr()
    assert end.value.code == 1 and f'skipped: {tmp_path}/bad.png: is not an image' in err
    assert (
        '2 images in' in out
        and '1 of 3 images could not be read' in out
        and len(read(at_root / 'images.json')['images']) == 2
    )


def test_ctrl_c_keeps_what_is_finished(at_root, monkeypatch, capsys):
    add = outputs.ResultWriter.add

    def interrupted(self, frame, prediction):
        if frame.source == 'clip.mp4#3':
            raise KeyboardInterrupt
        add(self, frame, prediction)

    monkeypatch.setattr(outputs.ResultWriter, 'add', interrupted)
    with pytest.raises(SystemExit) as end:
        predict(monkeypatch, 'boxes.pth', 'one', 'clip.mp4', '--out', at_root, '--score-thr', 0)
    assert end.value.code == 130 and 'interrupted: 5 images' in capsys.readouterr().out
    assert len(read(at_root / 'images.json')['images']) == 5 and len(read(at_root / 'predictions.json')) == 35
    assert cv2.VideoCapture(str(at_root / 'videos/clip.mp4')).get(cv2.CAP_PROP_FRAME_COUNT) == 3


@pytest.mark.parametrize(
    'args, words',
    [
        (['boxes.pth', 'absent.jpg'], 'absent.jpg: no such file or folder'),
        (['absent.pth', 'one'], 'absent.pth: there is no such checkpoint'),
        (['boxes.pth', 'one', '--batch-size', '0'], '--batch-size: must be at least 1'),
        (['boxes.pth', 'one', '--classes', 'a'], '--classes: 1 names'),
        (['boxes.pth', 'one', '--config', 'absent'], 'absent: no such config'),
        (['boxes.pth', 'one', '--config', 'upernet_focal_nano_shapes'], 'boxes.pth: does not fit the model'),
        (['one/a.png', 'one'], 'one/a.png: '),
        (['boxes.pth', 'one', '--device', 'gpu'], '--device: PyTorch cannot use gpu'),
    ],
)
def test_wrong_arguments_are_one_sentence(at_root, monkeypatch, capsys, args, words):
    with pytest.raises(SystemExit) as end:
        predict(monkeypatch, *args, '--out', at_root)
    assert end.value.code == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f'error: {words}') and not at_root.exists()


def test_the_config_may_be_a_file(at_root, tmp_path, monkeypatch):
    cfg = low_threshold('atss_focal_nano_shapes')
    cfg.model.test_cfg.max_per_img = 3
    cfg.dump(tmp_path / 'mine.py')
    assert isinstance(Config.fromfile(tmp_path / 'mine.py'), Config)
    predict(monkeypatch, 'boxes.pth', 'one/a.png', '--config', tmp_path / 'mine.py', '--out', at_root, '--score-thr', 0)
    assert len(read(at_root / 'predictions.json')) == 3
