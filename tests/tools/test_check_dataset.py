"""tools/check_dataset.py lists all issues of the data sets of the project's configs, as a user runs it."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
TOOL, CONFIGS = ROOT / 'tools/check_dataset.py', ROOT / 'configs'
DETECTION, INSTANCES, SEMANTIC = (f'{name}_nano_shapes' for name in ('atss_focal', 'mask_rcnn_r', 'semantic_fpn_focal'))
NAN = float('nan')


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Ten and five images in the shapes' layout, with boxes, masks and label maps."""
    root = tmp_path / 'shapes'
    for split in ('train', 'val'):
        (root / f'annotations/semantic_{split}2017').mkdir(parents=True)
        (root / f'{split}2017').mkdir()
        images, annotations = [], []
        for number in range(1, 11 if split == 'train' else 6):
            cv2.imwrite(str(root / f'{split}2017/{number}.jpg'), np.full((40, 48, 3), 9 * number, np.uint8))
            cv2.imwrite(
                str(root / f'annotations/semantic_{split}2017/{number}.png'), np.full((40, 48), number % 5, np.uint8)
            )
            images.append(dict(id=number, file_name=f'{number}.jpg', width=48, height=40))
            annotations.append(
                dict(
                    id=100 + number,
                    image_id=number,
                    category_id=1 + number % 4,
                    bbox=[4, 4, 20, 10],
                    area=200,
                    iscrowd=0,
                    segmentation=[[4, 4, 24, 4, 24, 14, 4, 14]],
                )
            )
        categories = [dict(id=i, name=name) for i, name in enumerate(('circle', 'square', 'triangle', 'cross'), 1)]
        write(root, split, dict(images=images, annotations=annotations, categories=categories))
    monkeypatch.setenv('SHAPES_ROOT', f'{root}/')
    return root


def read(root, split='train'):
    return json.loads((root / f'annotations/instances_{split}2017.json').read_text())


def write(root, split, coco):
    (root / f'annotations/instances_{split}2017.json').write_text(json.dumps(coco))


@pytest.fixture
def check(monkeypatch, capfd, tmp_path):
    """Runs the tool; gives the exit code, what it printed, and its JSON."""

    def run(config, *options):
        report = tmp_path / 'issues.json'
        arguments = [str(TOOL), str(CONFIGS / f'{config}.py'), '--workers', '2', '--json', str(report), *options]
        monkeypatch.setattr(sys, 'argv', arguments)
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(TOOL), run_name='__main__')
        out, err = capfd.readouterr()
        assert 'Traceback' not in err
        return end.value.code, out + err, json.loads(report.read_text()) if report.is_file() else None

    return run


@pytest.mark.parametrize('config', [DETECTION, INSTANCES, SEMANTIC])
@pytest.mark.parametrize('options', [[], ['--images']])
def test_sound_data(data, check, config, options):
    code, out, report = check(config, *options)
    assert code == 0 and report['issues'] == []
    assert report['files'] == (30 if config == SEMANTIC else 15)
    assert '0 errors' in out and ('decoded in' in out) == bool(options)


def test_every_issue_of_annotations_is_listed(data, check):
    coco = read(data)
    first, second, *_ = coco['annotations']
    changes = {
        0: dict(bbox=[NAN, 4, 20, 10]),
        1: dict(bbox=[24, 4, -20, 10]),
        2: dict(bbox=[4, 4, 20, 0]),
        3: dict(bbox=[50, 4, 20, 10], segmentation=[[50, 4, 70, 4, 70, 14, 50, 14]]),
        4: dict(bbox=[40, 4, 20, 10], segmentation=[[40, 4, 60, 4, 60, 14, 40, 14]]),
        5: dict(category_id=9),
        6: dict(image_id=99),
        7: dict(segmentation=[[4, 4, 24, 4, 24]]),
        8: dict(segmentation=dict(size=[40, 48], counts=[1900, 21])),
        9: dict(segmentation=[[4, 4, 24, 4, 24, 14], [1, 2, 3, 4]]),
    }
    for index, change in changes.items():
        coco['annotations'][index].update(change)
    coco['annotations'].append(dict(coco['annotations'][9], segmentation=[[4, 4, NAN, 4, 24, 14]]))
    coco['annotations'].append(dict(coco['annotations'][-1], id=200, bbox=[1, 1, 9, 9], area=-1))
    coco['images'].append(dict(coco['images'][0]))
    coco['images'].append(dict(coco['images'][0], id=11, height=None))
    write(data, 'train', coco)
    code, out, report = check(INSTANCES)
    assert code == 1
    assert report['counts']['error'] == {
        'duplicate id': 2,
        'invalid polygon': 2,
        'invalid image size': 1,
        'invalid box': 1,
        'negative box': 1,
        'unknown category': 1,
        'unknown image': 1,
        'invalid RLE': 1,
    }
    assert report['counts']['warning'] == {
        'box without size': 1,
        'box outside the image': 1,
        'box beyond the image': 1,
        'polygon of fewer than three points': 1,
        'class without annotations': 2,
        'annotations ignored': 2,
    }
    assert report['counts']['note'] == {'image without annotations': 1}
    assert {issue['split'] for issue in report['issues']} == {'train'}
    found = {
        issue['annotation']: (issue['image'], issue['kind']) for issue in report['issues'] if issue['level'] == 'error'
    }
    assert found[101] == (1, 'invalid box') and found[102] == (2, 'negative box')
    assert found[109] == (9, 'invalid RLE') and found[107] == (99, 'unknown image')
    assert 'error: ' in out and 'annotation 101 has bbox [nan, 4, 20, 10]' in out and '10 errors\n' in out
    assert '[train]' in out


def test_masks_are_needed_only_where_they_are_loaded(data, check):
    coco = read(data)
    del coco['annotations'][0]['segmentation']
    write(data, 'train', coco)
    assert check(DETECTION)[0] == 0
    code, _, report = check(INSTANCES)
    assert code == 1 and report['counts']['error'] == {'no mask': 1}


def test_every_issue_of_images_is_listed(data, check):
    folder = data / 'train2017'
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    (folder / '1.jpg').unlink()
    (folder / '2.jpg').write_bytes(b'')
    cv2.imwrite(str(folder / '3.jpg'), noise)
    (folder / '3.jpg').write_bytes((folder / '3.jpg').read_bytes()[:-300])
    (folder / '4.jpg').write_text('404 Not Found')
    cv2.imwrite(str(folder / '5.jpg'), noise[:-1])
    exif = Image.Exif()
    exif[0x112] = 8
    Image.fromarray(noise).save(folder / '6.jpg', exif=exif)
    Image.fromarray(noise).convert('CMYK').save(folder / '7.jpg')
    Image.fromarray(noise[..., 0]).save(folder / '8.jpg')
    Image.fromarray(noise[..., 0].astype(np.uint16) * 200).save(folder / '9.jpg', 'PNG')
    code, out, report = check(DETECTION, '--split', 'train')
    assert code == 1 and report['counts']['error'] == {'missing file': 1, 'empty file': 1}, 'without --images'
    code, out, report = check(DETECTION, '--split', 'train', '--images')
    assert code == 1
    assert {issue['image']: issue['kind'] for issue in report['issues']} == {
        1: 'missing file',
        2: 'empty file',
        3: 'truncated',
        4: 'not an image',
        5: 'wrong size',
        6: 'wrong size',
        7: 'CMYK',
        8: 'not RGB',
        9: '16-bit',
    }
    assert sum(report['counts']['error'].values()) == 6 and sum(report['counts']['warning'].values()) == 3
    assert f'error: {folder}/3.jpg: is truncated or damaged' in out and 'rotated by its EXIF tag' in out
    assert check(DETECTION, '--split', 'val', '--images')[0] == 0


def test_warnings_alone_are_no_failure(data, check):
    Image.fromarray(np.zeros((40, 48), np.uint8)).save(data / 'val2017/1.jpg')
    code, out, report = check(DETECTION, '--images')
    assert code == 0 and report['counts']['warning'] == {'not RGB': 1} and '1 warnings' in out


def test_label_maps(data, check):
    labels = data / 'annotations/semantic_train2017'
    cv2.imwrite(str(labels / '1.png'), np.full((40, 48), 5, np.uint8))
    cv2.imwrite(str(labels / '2.png'), np.full((40, 47), 1, np.uint8))
    cv2.imwrite(str(labels / '3.png'), np.full((40, 48, 3), 1, np.uint8))
    (labels / '4.png').unlink()
    (labels / '5.png').write_bytes((labels / '5.png').read_bytes()[:60])
    (data / 'train2017/6.jpg').write_bytes(b'')
    code, out, report = check(SEMANTIC, '--images')
    assert code == 1
    assert {Path(issue['file']).name: issue['kind'] for issue in report['issues']} == {
        '1.png': 'label value beyond the classes',
        '2.png': 'label map of another shape',
        '3.png': 'label map of another shape',
        '4.png': 'missing file',
        '5.png': 'truncated',
        '6.jpg': 'empty file',
    }
    assert 'holds the label values 5, but the 5 classes have the values 0 to 4' in out
    code, out, report = check(SEMANTIC)
    assert {Path(issue['file']).name for issue in report['issues']} == {'4.png', '6.jpg'} and 'none decoded' in out


def test_long_lists_are_cut_in_the_text_alone(data, check):
    coco = read(data)
    coco['annotations'] += [dict(coco['annotations'][0], id=300 + index, category_id=9) for index in range(50)]
    write(data, 'train', coco)
    code, out, report = check(DETECTION)
    assert code == 1 and out.count('has category_id 9') == 20 and 'error: … and 30 more of this kind' in out
    assert len(report['issues']) == 50


@pytest.mark.parametrize(
    'damage, sentence',
    [
        (lambda path: path.unlink(), 'annotations/instances_train2017.json not found'),
        (lambda path: path.write_text(path.read_text()[:100]), 'instances_train2017.json: not JSON, or truncated'),
        (lambda path: path.write_text('[]'), 'holds a list, not an object with images'),
        (
            lambda path: path.write_text('{"images": [], "annotations": [], "categories": []}'),
            'list of images is empty',
        ),
    ],
)
def test_a_bad_annotation_file_does_not_keep_the_other_from_being_read(data, check, damage, sentence):
    damage(data / 'annotations/instances_train2017.json')
    (data / 'val2017/2.jpg').unlink()
    code, out, report = check(DETECTION)
    assert code == 1 and sentence in out
    assert report['counts']['error'] == {'annotation file': 1, 'missing file': 1}


def test_data_sets_within_wrappers_and_other_data_sets(data, check, tmp_path):
    config = tmp_path / 'wrapped.py'
    config.write_text(f"""
_base_ = '{CONFIGS}/{DETECTION}.py'
train = _base_.train_dataloader.dataset
wrapped = dict(type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[
    train, dict(train, ann_file='annotations/instances_val2017.json', data_prefix=dict(img='val2017/'))]))
train_dataloader = dict(dataset=dict(_delete_=True, **wrapped))
""")
    code, out, report = check(config.with_suffix(''), '--split', 'train')
    assert code == 0 and report['files'] == 15 and 'of 2 data sets' in out
    code, out, _ = check(DETECTION, '--cfg-options', 'train_dataloader.dataset.type=CocoDataset')
    assert code == 1 and 'error: CocoDataset: only data sets of mmfocal can be checked; ' in out


def test_without_the_other_library(data):
    """A config that needs MMDetection is checked without MMSegmentation, and the other way round."""
    for config, absent in ((DETECTION, 'mmseg'), (SEMANTIC, 'mmdet')):
        code = (
            'import importlib.util, runpy, sys\n'
            'find = importlib.util.find_spec\n'
            f'importlib.util.find_spec = lambda name, *args: None if name == {absent!r} else find(name, *args)\n'
            f'sys.modules[{absent!r}] = None\n'
            f'sys.argv = ["check_dataset.py", {str(CONFIGS / config)!r} + ".py"]\n'
            f'runpy.run_path({str(TOOL)!r}, run_name="__main__")\n'
        )
        done = subprocess.run(
            [sys.executable, '-c', code], env={**os.environ, 'PYTHONPATH': str(ROOT)}, text=True, capture_output=True
        )
        assert done.returncode == 0 and '0 errors' in done.stdout, done.stdout + done.stderr
