"""mmfocal browse: sheets show samples as training gets them, with annotations where they belong."""

import json
import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, init_default_scope

import mmfocal.registration  # noqa: F401
from mmfocal import cli
from mmfocal.visualization.browse import CELL, FitToCell, Painter, fit_samples, make_sheet, to_rgb

METAINFO = dict(classes=('circle', 'square', 'triangle', 'cross'))


@pytest.fixture
def run(tmp_path, shapes, monkeypatch, capsys):
    """Runs the command in this process; returns its output, its error output, and the samples that were drawn."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('SHAPES_ROOT', str(shapes))
    drawn, draw = [], Painter.draw
    monkeypatch.setattr(Painter, 'draw', lambda self, sample: drawn.append(sample) or draw(self, sample))

    def run(*arguments):
        monkeypatch.setattr('sys.argv', ['mmfocal', 'browse', *map(str, arguments)])
        drawn.clear()
        capsys.readouterr()
        try:
            cli.main()
        except SystemExit as stop:
            assert stop.code == 1
        return *capsys.readouterr(), drawn

    return run


def annotations(shapes, split):
    """Boxes of each image, xyxy, by its name."""
    coco = json.loads((shapes / f'annotations/instances_{split}2017.json').read_text())
    names = {image['id']: image['file_name'] for image in coco['images']}
    boxes = {name: [] for name in names.values()}
    for one in coco['annotations']:
        x, y, width, height = one['bbox']
        boxes[names[one['image_id']]].append([x, y, x + width, y + height])
    return {name: np.array(of) for name, of in boxes.items()}


def test_training_samples(run, shapes):
    out, error, drawn = run('atss_focal_nano_shapes', '--num', 5)
    assert out.splitlines()[-1] == 'work_dirs/browse/atss_focal_nano_shapes/train_01.jpg: 5 samples of 8', error
    boxes, flips = annotations(shapes, 'train'), set()
    for sample in drawn:
        of, shown = sample['data_samples'], sample['data_samples'].gt_instances.bboxes.tensor.numpy()
        expected = boxes[of.img_path.rpartition('/')[2]] * CELL / 64
        if of.flip:
            expected[:, [0, 2]] = CELL - expected[:, [2, 0]]
        assert tuple(sample['inputs'].shape) == (3, CELL, CELL) and shown == pytest.approx(expected, abs=0.1)
        flips.add(of.flip)
    assert flips == {False, True} and len({sample['data_samples'].img_path for sample in drawn}) == 5
    sheet = cv2.imread('work_dirs/browse/atss_focal_nano_shapes/train_01.jpg')
    assert sheet.shape[1] > 4 * CELL and sheet.shape[0] > 2 * CELL
    first = [sample['data_samples'].img_path for sample in drawn]
    *_, again = run('atss_focal_nano_shapes', '--num', 5)
    assert [sample['data_samples'].img_path for sample in again] == first


def test_annotations_of_a_split_for_evaluation_fit_resized_images(run, shapes):
    """There the pipeline loads boxes after resizing, in the original's pixels."""
    option = 'val_dataloader.dataset.pipeline.1.scale_factor=1.5'
    out, error, drawn = run('mask_rcnn_focal_nano_shapes', '--split', 'val', '--cfg-options', option, '--out', 'val')
    assert 'val/val_01.jpg: 4 samples of 4' in out, error
    boxes = annotations(shapes, 'val')
    for sample in drawn:
        of = sample['data_samples']
        expected = boxes[of.img_path.rpartition('/')[2]] * CELL / 64
        assert of.gt_instances.bboxes.tensor.numpy() == pytest.approx(expected, abs=0.1)


def test_masks_and_label_maps(run):
    *_, drawn = run('mask_rcnn_focal_nano_shapes', '--num', 2)
    for sample in drawn:
        instances = sample['data_samples'].gt_instances
        for mask, box in zip(instances.masks.to_ndarray(), instances.bboxes.tensor.numpy()):
            y, x = mask.nonzero()
            extent = x.min(), y.min(), x.max() + 1, y.max() + 1
            assert extent == pytest.approx(box, abs=CELL / 64 + 1)
    *_, drawn = run('semantic_fpn_focal_nano_shapes', '--num', 2, '--cfg-options', 'crop_size=(64,64)')
    for sample in drawn:
        assert sample['data_samples'].gt_sem_seg.data.shape == (1, *sample['inputs'].shape[1:])
        assert cv2.imread('work_dirs/browse/semantic_fpn_focal_nano_shapes/train_01.jpg').std() > 10


def dataset_settings(shapes, pipeline):
    return dict(
        type='CheckedCocoDataset',
        data_root=str(shapes),
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
        metainfo=METAINFO,
        pipeline=pipeline,
    )


LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True)]
PACK = dict(type='PackDetInputs')


@pytest.mark.parametrize(
    'mix', [dict(type='Mosaic', img_scale=(64, 64)), dict(type='MixUp', img_scale=(64, 64))], ids=['mosaic', 'mixup']
)
def test_wrappers_that_mix_images(mix, shapes):
    init_default_scope('mmdet')
    inner = dataset_settings(shapes, [LOAD[0], dict(type='LoadAnnotations', with_bbox=True)])
    dataset = DATASETS.build(dict(type='MultiImageMixDataset', dataset=inner, pipeline=[mix, PACK]))
    fit = FitToCell(CELL)
    fit_samples(dataset, fit)
    image = Painter(dict(default_scope='mmdet'), dataset.metainfo).draw(dataset[0])
    assert max(image.shape[:2]) == CELL and fit.size[0] >= 64


def test_wrappers_around_data_sets(shapes):
    init_default_scope('mmdet')
    one = dataset_settings(shapes, [*LOAD, PACK])
    dataset = DATASETS.build(
        dict(type='ConcatDataset', datasets=[one, dict(type='RepeatDataset', times=2, dataset=one)])
    )
    fit_samples(dataset, FitToCell(100))
    assert {max(dataset[i]['inputs'].shape[1:]) for i in (0, 7, 8, 23)} == {100}


def test_panoptic_samples(shapes, tmp_path, monkeypatch):
    """Segments are drawn below instances."""
    package = tmp_path / 'packages/panopticapi'
    package.mkdir(parents=True)
    (package / '__init__.py').touch()
    (package / 'utils.py').write_text('def rgb2id(pixels):\n    return pixels @ [1, 256, 65536]\n')
    monkeypatch.syspath_prepend(str(package.parent))
    ids = np.zeros((40, 60, 3), np.uint8)
    ids[:], ids[5:20, 10:30] = (0, 0, 9), (0, 0, 7)  # BGR
    (tmp_path / 'segments').mkdir()
    cv2.imwrite(str(tmp_path / 'segments/1.png'), ids)
    cv2.imwrite(str(tmp_path / '1.jpg'), np.full((40, 60, 3), 128, np.uint8))
    segments = [
        dict(id=number, category_id=category, bbox=box, area=box[2] * box[3], iscrowd=0)
        for number, category, box in ((7, 1, [10, 5, 20, 15]), (9, 2, [0, 0, 60, 40]))
    ]
    coco = dict(
        images=[dict(id=1, file_name='1.jpg', width=60, height=40)],
        categories=[dict(id=1, name='disc', isthing=1), dict(id=2, name='sky', isthing=0)],
        annotations=[dict(image_id=1, file_name='1.png', segments_info=segments)],
    )
    (tmp_path / 'panoptic.json').write_text(json.dumps(coco))
    init_default_scope('mmdet')
    dataset = DATASETS.build(
        dict(
            type='CheckedCocoPanopticDataset',
            data_root=str(tmp_path),
            ann_file='panoptic.json',
            data_prefix=dict(img='', seg='segments/'),
            metainfo=dict(classes=('disc', 'sky'), thing_classes=('disc',), stuff_classes=('sky',)),
            pipeline=[LOAD[0], dict(type='LoadPanopticAnnotations'), PACK],
        )
    )
    fit_samples(dataset, FitToCell(CELL))
    painter = Painter(dict(default_scope='mmdet'), dict(dataset.metainfo, palette=[(255, 0, 0), (0, 0, 255)]))
    sample = dataset[0]
    image = painter.draw(sample)
    assert image.shape == (240, 360, 3)
    disc, sky = image[75, 150].astype(int), image[200, 20].astype(int)
    assert disc[0] > disc[2] + 80 and sky[2] > sky[0] + 80
    for name in [name for name in sys.modules if name.split('.')[0] == 'panopticapi']:
        del sys.modules[name]


def test_pictures_of_any_channels():
    rgb = to_rgb(torch.tensor([[[10]], [[20]], [[30]], [[40]]], dtype=torch.uint8))
    assert rgb.tolist() == [[[30, 20, 10]]]
    assert to_rgb(torch.tensor([[[7]]], dtype=torch.uint8)).tolist() == [[[7, 7, 7]]]
    assert to_rgb(torch.tensor([[[1000.0, 500.0]]])).max() == 255
    sheet = make_sheet([(np.full((20, 30, 3), 200, np.uint8), 'a $b$')] * 5)
    assert len(sheet.images) == len(sheet.texts) == 5


@pytest.mark.parametrize(
    'arguments, sentence',
    [
        (['absent.py'], 'absent.py: no such config'),
        (['atss_focal_nano_shapes', '--num', '0'], '--num 0: draw at least 1 sample'),
        (
            ['atss_focal_nano_shapes', '--cfg-options', 'train_dataloader.dataset=None'],
            'it has no train_dataloader.dataset; choose another --split',
        ),
        (
            ['atss_focal_nano_shapes', '--cfg-options', 'train_dataloader.dataset.data_root=nowhere'],
            'nowhere',
        ),
        (['unpacked.py'], 'the pipeline ends with RandomFlip; let it end with PackDetInputs'),
        (['atss_focal_nano_shapes', '--num', '1', '--out', 'file'], 'file/train_01.jpg cannot be saved'),
    ],
    ids=['config', 'num', 'split', 'data', 'pipeline', 'out'],
)
def test_mistakes_get_one_sentence(arguments, sentence, run, tmp_path):
    (tmp_path / 'file').touch()
    (tmp_path / 'unpacked.py').write_text("""_base_ = 'mmfocal::atss_focal_nano_shapes.py'
pipeline = [dict(type='LoadImageFromFile'), dict(type='RandomFlip', prob=0.5)]
train_dataloader = dict(dataset=dict(pipeline=pipeline))
""")
    _, error, _ = run(*arguments)
    assert error.splitlines()[-1].startswith('error: ') and sentence in error and 'Traceback' not in error
