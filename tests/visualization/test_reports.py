"""`mmfocal test --report`: figures of the page and of report.json are those of the log."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

import mmfocal.registration  # noqa: F401
from mmfocal.cli import main
from mmfocal.datasets.coco_metric import CheckedCocoMetric
from mmfocal.engine import read_config
from mmfocal.errors import ConfigError
from mmfocal.visualization.reports.page import render
from mmfocal.visualization.reports.pictures import draw_detections
from mmfocal.visualization.reports.plots import curve_points, list_confusions, plot_confusion
from mmfocal.visualization.reports.report import TestReport, to_json

sys.path.insert(0, str(Path(__file__).parents[1] / 'datasets/analysis'))
from detections import random_images
from test_detection_analysis import evaluate

from mmfocal.datasets.analysis.detection import analyse_detections

ROOT = Path(__file__).parents[2]
QUICK = [
    'test_dataloader.num_workers=0',
    'test_dataloader.persistent_workers=False',
    'model.backbone.arch.depths=(1,1,1,1)',
]
HEAD = dict(config='a/<i>.py', checkpoint='b.pth', made='today', images=20, metrics={'coco/bbox_mAP': 0.5})


def run_test(name, work_dir, monkeypatch, *args, options=()):
    """Tests a model with random weights; returns the figures of its log."""
    cfg = read_config(name, {'model.backbone.arch.depths': (1, 1, 1, 1)})
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    checkpoint = work_dir / 'random.pth'
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict(), meta={}), checkpoint)
    argv = ['mmfocal', 'test', name, checkpoint, '--work-dir', work_dir, *args, '--cfg-options', *QUICK, *options]
    monkeypatch.setattr(sys, 'argv', list(map(str, argv)))
    main()
    (log,) = work_dir.glob('2*/2*.json')
    return json.loads(log.read_text())


def check_page(page, classes):
    assert not re.search(r'(src|href)="(?!data:)', page), 'the page needs no other file'
    assert not re.search('>nan<', page)
    for name in classes:
        assert f'scope="row">{name}</th>' in page


def test_report_of_a_detector_with_masks(shapes, tmp_path, monkeypatch):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes))
    options = ['model.test_cfg.rcnn.score_thr=0.0']
    figures = run_test(
        'mask_rcnn_focal_nano_shapes',
        tmp_path,
        monkeypatch,
        '--report',
        tmp_path / 'out',
        '--classwise',
        options=options,
    )  # fmt: skip
    report = json.loads((tmp_path / 'out/report.json').read_text())
    page = (tmp_path / 'out/report.html').read_text()
    check_page(page, ['circle', 'square', 'triangle', 'cross'])
    assert page.count('src="data:image/jpeg;base64,') == 8  # four images, boxes and masks
    for part, kind in (('boxes', 'bbox'), ('masks', 'segm')):
        assert report[part]['overall']['AP'] == pytest.approx(figures[f'coco/{kind}_mAP'], abs=6e-4)
        assert report[part]['overall']['AP50'] == pytest.approx(figures[f'coco/{kind}_mAP_50'], abs=6e-4)
        for row in report[part]['classes']:
            expected = figures[f'coco/{kind}_{row["name"]}_precision']
            assert (row['AP'] or 0) == pytest.approx(max(expected, 0), abs=6e-4)
        objects = sum(row['annotations'] for row in report[part]['classes'])
        assert np.sum(report[part]['confusion'][:4]) == objects > 0
        assert len(report[part]['worst_images']) == 4
    assert report['metrics']['coco/bbox_mAP'] == figures['coco/bbox_mAP']


def test_report_of_a_segmentor(shapes, tmp_path, monkeypatch):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes))
    figures = run_test('semantic_fpn_focal_nano_shapes', tmp_path, monkeypatch, '--report', tmp_path / 'out')
    report = json.loads((tmp_path / 'out/report.json').read_text())['segmentation']
    page = (tmp_path / 'out/report.html').read_text()
    check_page(page, ['circle', 'square'])
    assert page.count('src="data:image/jpeg;base64,') == 4
    for name in ('mIoU', 'mAcc', 'aAcc'):
        assert 100 * report['overall'][name] == pytest.approx(figures[name], abs=0.006)


def test_a_config_without_a_suitable_evaluator_is_one_sentence(shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes))
    with pytest.raises(SystemExit) as stop:
        run_test(
            'atss_focal_nano_shapes', tmp_path, monkeypatch, '--report', tmp_path / 'out',
            options=['test_evaluator.metric=proposal'],
        )  # fmt: skip
    assert stop.value.code == 1
    assert 'atss_focal_nano_shapes: --report needs a test_evaluator of the type' in capsys.readouterr().err


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(format_only=True), 'test_evaluator.format_only: --report needs annotations; set it to False'),
        (dict(), 'cannot make the folder'),
    ],
)
def test_mistakes_are_found_before_the_test(settings, message, tmp_path):
    (tmp_path / 'file').touch()
    metric = CheckedCocoMetric(outfile_prefix='x', **settings)
    runner = SimpleNamespace(test_evaluator=SimpleNamespace(metrics=[metric]))
    with pytest.raises(ConfigError, match=message):
        TestReport(runner, str(tmp_path / ('file' if not settings else 'new')), 'config.py', 'a.pth')


def test_an_image_that_cannot_be_decoded_has_no_picture(tmp_path):
    evaluation, _ = evaluate(random_images(0, 1, 2), 2)
    path = tmp_path / 'float.tif'
    path.write_bytes(b'no image')
    evaluation.image_paths = [str(path)]
    assert draw_detections(None, evaluation, 0, 'bbox', 0.3) is None


@pytest.fixture(scope='module')
def analysis():
    evaluation, _ = evaluate(random_images(0, 20, 3), 3)
    evaluation.classes = ['<b>', 'van', "o'clock"]
    return analyse_detections(evaluation, 'bbox')


def test_names_are_escaped(analysis):
    page = render(HEAD, {'Boxes': analysis}, {})
    assert '<b>' not in page.split('<main>')[1].replace('<b></b>', '') and '&lt;b&gt;' in page
    assert '<title>Test: &lt;i&gt;, b.pth</title>' in page


def test_json_has_no_nan(analysis):
    head = dict(HEAD, metrics={'a': float('nan'), 'b': np.float32(1)})
    report = json.loads(to_json(head, {'Boxes': analysis}), parse_constant=pytest.fail)
    assert report['metrics'] == {'a': None, 'b': 1.0}
    assert report['boxes']['errors']['counts']['missed'] == analysis.errors.counts['missed']


def test_small_curves_keep_their_turns():
    points = curve_points([1.0] * 50 + [0.5] * 51)
    assert points == '0,0 49,0 50,30 100,30'


def test_confusions_are_sorted_and_without_background():
    matrix = np.array([[5, 3, 2], [1, 7, 9], [4, 4, 0]])
    rows = list_confusions(matrix, ['a', 'b'])
    assert [(row['annotated'], row['predicted'], row['count']) for row in rows] == [('a', 'b', 3), ('b', 'a', 1)]
    assert rows[0]['share'] == 0.3
    plot = plot_confusion(matrix, ['a', 'b'], True, 'objects')
    assert len(plot.cells) == 8 and plot.cells[0].title == 'a → a: 5 objects, 50.0 % of the row'


def test_a_page_of_80_classes_has_no_numbers_in_its_cells():
    evaluation, _ = evaluate(random_images(1, 30, 80), 80)
    page = render(HEAD, {'Boxes': analyse_detections(evaluation, 'bbox')}, {})
    matrix = page.split('class="confusion"')[1].split('</svg>')[0]
    assert matrix.count('<text') == 2 * 81 and 'class 79' in matrix


def test_panoptic_classes():
    rows = [dict(name='sky', kind='stuff', PQ=0.5, SQ=0.8, RQ=0.625, tp=5, fp=3, fn=3)]
    page = render(HEAD, {'Panoptic segmentation': rows}, {})
    assert '<td>50.0</td><td>80.0</td><td>62.5</td><td>5</td><td>3</td><td>3</td>' in page


def test_segmentors_need_no_mmdetection():
    code = """
import sys
sys.modules.update(mmdet=None)
import mmfocal.visualization.reports.report
"""
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
