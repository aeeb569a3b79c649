"""mmfocal data-stats: figures of small data sets that were counted by hand, and coverage by brute force."""

import json

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures.bbox import bbox_overlaps

from mmfocal import cli
from mmfocal.engine import read_config
from mmfocal.visualization.anchor_coverage import AnchorCoverage
from mmfocal.visualization.data_stats import collect, summarize

BOXES = {  # image: class, xywh, iscrowd
    1: [('cat', (0, 0, 20, 20), 0), ('cat', (10, 10, 40, 40), 0), ('dog', (0, 0, 200, 100), 0)],
    2: [('cat', (5, 5, 32, 32), 0), ('dog', (0, 0, 9, 9), 1)],
    3: [],
}


@pytest.fixture
def folder(tmp_path):
    """A data set of three images of 200 × 100 pixels and of three classes, one without boxes."""
    (tmp_path / 'images').mkdir()
    ids = {'cat': 1, 'dog': 2, '<cow>': 3}
    annotations = [
        dict(id=0, image_id=image, category_id=ids[name], bbox=box, area=box[2] * box[3], iscrowd=crowd)
        for image, boxes in BOXES.items()
        for name, box, crowd in boxes
    ]
    for i, annotation in enumerate(annotations):
        annotation['id'] = i + 1
        if annotation['iscrowd']:
            annotation['segmentation'] = dict(size=[100, 200], counts=[0, 20000])
    images = [dict(id=i, file_name=f'{i}.png', width=200, height=100) for i in BOXES]
    for image in images:
        cv2.imwrite(str(tmp_path / 'images' / image['file_name']), np.zeros((100, 200, 3), np.uint8))
    categories = [dict(id=i, name=name) for name, i in ids.items()]
    (tmp_path / 'coco.json').write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return tmp_path


def options(folder, **more):
    dataset = 'train_dataloader.dataset.'
    return {
        f'{dataset}data_root': str(folder),
        f'{dataset}ann_file': 'coco.json',
        f'{dataset}data_prefix.img': 'images/',
        f'{dataset}metainfo.classes': ['cat', 'dog', '<cow>'],
        f'{dataset}filter_cfg': None,
        **more,
    }


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr('sys.argv', ['mmfocal', 'data-stats', *map(str, arguments)])
        capsys.readouterr()
        try:
            cli.main()
        except SystemExit as stop:
            assert stop.code == 1
        return capsys.readouterr()

    return run


def test_boxes(run, folder):
    pairs = [f'{key}={value}' for key, value in options(folder).items() if 'classes' not in key and value is not None]
    classes = "train_dataloader.dataset.metainfo.classes=('cat','dog','<cow>')"
    out, error = run(
        'atss_focal_nano_shapes', '--json', 'a.json', '--cfg-options', *pairs, classes,
        'train_dataloader.dataset.filter_cfg.filter_empty_gt=False',
    )  # fmt: skip
    figures = json.loads(open('a.json').read())
    rows = {row['name']: row for row in figures['rows']}
    assert rows['cat'] == dict(name='cat', boxes=3, images=2, small=1, medium=2, large=0, side=32.0, covered=1.0), error
    assert rows['dog'] == dict(name='dog', boxes=1, images=1, small=0, medium=0, large=1, side=141.4, covered=1.0)
    assert rows['<cow>']['boxes'] == 0 and rows['<cow>']['side'] is None and rows['<cow>']['covered'] is None
    totals = figures['totals']
    assert totals['images'] == 3 and totals['boxes'] == 4 and totals['empty'] == 1 and totals['ignored'] == 1
    assert totals['absent'] == ['<cow>'] and totals['per_image'] == dict(mean=1.33, median=1.0, most=3)
    lines = out.splitlines()
    assert any(line.split() == ['cat', '3', '2', '1', '2', '0', '32', '100.0%'] for line in lines)
    assert lines[-1] == 'work_dirs/data_stats/atss_focal_nano_shapes.html'
    page = open(lines[-1]).read()
    assert '&lt;cow&gt;' in page and '<cow>' not in page and page.count('<svg') == 5
    assert '://' not in page.replace('http://www.w3.org', '')  # it loads nothing


def read(name, folder, **more):
    cfg = read_config(name, options(folder, **more))
    cfg.train_dataloader.dataset.filter_cfg = None
    return cfg


def test_wrapped_data_sets_count_once(folder):
    cfg = read('atss_focal_nano_shapes', folder)
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=5, dataset=cfg.train_dataloader.dataset)
    assert len(collect(cfg, 'train').boxes) == 4


def test_coverage_by_anchors(folder):
    """RetinaNet's anchors, in images that are resized to twice their size: the share by brute force."""
    cfg = read('retinanet_focal_nano_shapes', folder)
    cfg.train_dataloader.dataset.pipeline.insert(2, dict(type='Resize', scale_factor=2.0, keep_ratio=True))
    found = collect(cfg, 'train')
    head = AnchorCoverage(cfg).head
    strides = [stride[0] for stride in head.prior_generator.strides]
    divisor = cfg.model.data_preprocessor.pad_size_divisor
    height, width = -(-200 // divisor) * divisor, -(-400 // divisor) * divisor
    anchors = torch.cat(
        head.prior_generator.grid_priors([(-(-height // s), -(-width // s)) for s in strides], device='cpu')
    )
    boxes = torch.tensor([box for of in BOXES.values() for _, box, crowd in of if not crowd]).float() * 2
    boxes[:, 2:] += boxes[:, :2]
    best = bbox_overlaps(boxes, anchors).amax(1)
    assert found.coverage.best_iou == pytest.approx(best.tolist(), abs=1e-6)
    assert found.coverage.covered == (best >= cfg.model.train_cfg.assigner.pos_iou_thr).tolist()
    assert found.coverage.criterion == 'IoU of at least 0.5 with the best anchor'
    assert found.scale == 'a factor of 2, as in the train pipeline'
    coverage = summarize(found)['coverage']
    assert coverage['share'] == pytest.approx(np.mean(found.coverage.covered)) and coverage['boxes'] == 4


def test_coverage_by_points(folder):
    """RepPoints V2's points are 8 pixels apart: a small box between them has none."""
    content = json.loads((folder / 'coco.json').read_text())
    content['annotations'][0]['bbox'] = [1, 1, 6, 6]
    content['annotations'][1]['bbox'] = [4, 4, 6, 6]
    (folder / 'coco.json').write_text(json.dumps(content))
    found = collect(read('reppointsv2_focal_nano_shapes', folder), 'train')
    assert found.coverage.kind == 'points' and found.coverage.covered[:2] == [False, True]
    assert not found.coverage.best_iou and found.scale.startswith('their own size')


@pytest.mark.parametrize(
    'name, kind',
    [('mask_rcnn_focal_nano_shapes', 'anchors'), ('sparse_rcnn_focal_nano_shapes', None)],
    ids=['rpn', 'queries'],
)
def test_other_heads(name, kind, folder):
    """An RPN has anchors; a head of learned queries has none."""
    cfg = read(name, folder)
    for step in cfg.train_dataloader.dataset.pipeline:
        step.pop('with_mask', None)
    found = collect(cfg, 'train')
    assert (found.coverage and found.coverage.kind) == kind
    assert (summarize(found)['coverage'] is None) == (kind is None)


def test_a_part_of_the_images_is_compared(folder):
    found = collect(read('atss_focal_nano_shapes', folder), 'train', number=1)
    assert len(found.boxes) == 4 and len(found.coverage.covered) == len(found.covered_boxes) < 4


def test_pixels(run, shapes, monkeypatch):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes))
    out, error = run('semantic_fpn_focal_nano_shapes', '--json', 'a.json', '--split', 'val')
    maps = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in (shapes / 'annotations/semantic_val2017').iterdir()]
    rows = json.loads(open('a.json').read())['rows']
    assert [row['name'] for row in rows] == ['background', 'circle', 'square', 'triangle', 'cross'], error
    for label, row in enumerate(rows):
        assert row['pixels'] == sum(int((values == label).sum()) for values in maps)
        assert row['images'] == sum((values == label).any() for values in maps)
        assert row['share'] == pytest.approx(row['pixels'] / (4 * 64 * 64))
    assert '4 label maps with 16384 pixels, of which 0.0% are ignored' in out


@pytest.mark.parametrize(
    'arguments, sentence',
    [
        (['absent.py'], 'absent.py: no such config'),
        (['atss_focal_nano_shapes', '--num', '-1'], '--num -1: give a number of images'),
        (['atss_focal_nano_shapes', '--cfg-options', 'train_dataloader=None'], 'it has no train_dataloader.dataset'),
        (['atss_focal_nano_shapes', '--cfg-options', 'train_dataloader.dataset.data_root=nowhere'], 'nowhere'),
        (['atss_focal_nano_shapes', '--out', 'file/a.html'], 'file/a.html cannot be saved'),
    ],
    ids=['config', 'num', 'split', 'data', 'out'],
)
def test_mistakes_get_one_sentence(arguments, sentence, run, shapes, tmp_path, monkeypatch):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes))
    (tmp_path / 'file').touch()
    _, error = run(*arguments)
    assert error.splitlines()[-1].startswith('error: ') and sentence in error and 'Traceback' not in error
