"""`mmfocal test --format-only`: predictions for images without annotations, as test servers take them."""

import json
import sys
from types import SimpleNamespace
from zipfile import ZipFile

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import mmfocal.registration  # noqa: F401
from mmfocal.cli import main
from mmfocal.cli.submission import Submission, split_of
from mmfocal.engine import read_config
from mmfocal.errors import ConfigError

QUICK = [
    'test_dataloader.num_workers=0',
    'test_dataloader.persistent_workers=False',
    'model.backbone.arch.depths=(1,1,1,1)',
]


def run_test(name, work_dir, monkeypatch, *args, options=()):
    cfg = read_config(name, {'model.backbone.arch.depths': (1, 1, 1, 1)})
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    checkpoint = work_dir / 'random.pth'
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict(), meta={}), checkpoint)
    argv = ['mmfocal', 'test', name, checkpoint, '--work-dir', work_dir, *args, '--cfg-options', *QUICK, *options]
    monkeypatch.setattr(sys, 'argv', list(map(str, argv)))
    main()


@pytest.fixture
def without_annotations(shapes, monkeypatch):
    """The annotation file of test images, whose ids of categories are not those of labels."""
    monkeypatch.setenv('SHAPES_ROOT', str(shapes))
    content = json.loads((shapes / 'annotations/instances_val2017.json').read_text())
    del content['annotations']
    path = shapes / 'annotations/image_info_test-dev2017.json'
    path.write_text(json.dumps(content))
    yield content
    path.unlink()


def test_boxes_and_masks_are_zipped_under_cocos_names(without_annotations, tmp_path, monkeypatch, capsys):
    run_test(
        'mask_rcnn_focal_nano_shapes', tmp_path, monkeypatch, '--format-only', 'nano_v1',
        options=[
            'test_dataloader.dataset.ann_file=annotations/image_info_test-dev2017.json',
            'model.test_cfg.rcnn.score_thr=0.0',
        ],
    )  # fmt: skip
    printed = capsys.readouterr().out
    for metric, key in (('bbox', 'bbox'), ('segm', 'segmentation')):
        path = tmp_path / f'submission/{metric}/detections_test-dev2017_nano_v1_results.zip'
        assert f'\n{path}\n' in printed
        with ZipFile(path) as archive:
            assert archive.namelist() == ['detections_test-dev2017_nano_v1_results.json']
            entries = json.loads(archive.read(archive.namelist()[0]))
        assert {tuple(sorted(entry)) for entry in entries} == {tuple(sorted(('image_id', 'category_id', 'score', key)))}
        assert {entry['image_id'] for entry in entries} == {image['id'] for image in without_annotations['images']}
        ids = {category['id'] for category in without_annotations['categories']}
        assert {entry['category_id'] for entry in entries} <= ids
    assert sorted(path.name for path in (tmp_path / 'submission').iterdir()) == ['bbox', 'segm']


def test_label_maps_need_no_annotations(shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes))
    options = ['test_dataloader.dataset.data_prefix.seg_map_path=missing']
    run_test('semantic_fpn_focal_nano_shapes', tmp_path, monkeypatch, '--format-only', options=options)
    maps = sorted((tmp_path / 'submission').rglob('*.png'))
    assert len(maps) == 4 and f'{tmp_path}/submission\n' in capsys.readouterr().out
    for path in maps:
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert labels.shape == (64, 64) and labels.max() < 5


def test_panoptic_predictions_are_zipped_under_cocos_names(tmp_path):
    cfg = panoptic_config()
    submission = Submission(cfg, 'config.py', 'focal', str(tmp_path / 'out'))
    (tmp_path / 'out/results.panoptic.json').write_text('{"annotations": []}')
    (tmp_path / 'out/results.panoptic').mkdir()
    cv2.imwrite(str(tmp_path / 'out/results.panoptic/1.png'), np.zeros((4, 5, 3)))
    submission.pack(SimpleNamespace(test_evaluator=SimpleNamespace(metrics=[])))
    name = 'panoptic_test-dev2017_focal_results'
    with ZipFile(tmp_path / f'out/panoptic/{name}.zip') as archive:
        assert archive.namelist() == [f'{name}.json', f'{name}/1.png']
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['panoptic']
    assert cfg.test_evaluator.format_only and cfg.test_evaluator.ann_file == (
        'data/coco/annotations/panoptic_image_info_test-dev2017.json'
    )
    assert [step.type for step in cfg.test_dataloader.dataset.pipeline] == ['LoadImageFromFile', 'PackDetInputs']
    assert 'seg' not in cfg.test_dataloader.dataset.data_prefix


def panoptic_config():
    dataset = dict(
        data_root='data/coco',
        ann_file='annotations/panoptic_image_info_test-dev2017.json',
        data_prefix=dict(img='test2017', seg='annotations/panoptic_val2017'),
        pipeline=[dict(type=kind) for kind in ('LoadImageFromFile', 'LoadPanopticAnnotations', 'PackDetInputs')],
    )
    return Config(dict(test_dataloader=dict(dataset=dataset), test_evaluator=dict(type='CheckedCocoPanopticMetric')))


@pytest.mark.parametrize(
    'ann_file, split',
    [
        ('annotations/image_info_test-dev2017.json', 'test-dev2017'),
        ('panoptic_val2017.json', 'val2017'),
        ('panoptic_image_info_test-dev2017.json', 'test-dev2017'),
        ('/a/mine.json', 'mine'),
        ('', 'test'),
    ],
)
def test_names_of_splits(ann_file, split):
    assert split_of(ann_file) == split


def test_a_name_that_is_none_and_an_evaluator_that_writes_nothing_are_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match="^--format-only 'a/b': not a name; use letters, digits, hyphens"):
        Submission(panoptic_config(), 'config.py', 'a/b', str(tmp_path))
    cfg = panoptic_config()
    cfg.test_evaluator.type = 'VOCMetric'
    with pytest.raises(ConfigError, match='^config.py: --format-only needs a test_evaluator of COCO, label maps'):
        Submission(cfg, 'config.py', 'a', str(tmp_path))


def test_report_needs_annotations(shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes))
    with pytest.raises(SystemExit):
        run_test('atss_focal_nano_shapes', tmp_path, monkeypatch, '--format-only', '--report', tmp_path)
    assert 'error: --format-only: --report needs annotations; leave out one of them' in capsys.readouterr().err
