"""tools/benchmark.py report: what is compared with the paper's figures, and what is not."""

import argparse
import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from mmengine.config import Config

from mmfocal.benchmark.paper import plots
from mmfocal.benchmark.paper import report as module
from mmfocal.benchmark.paper.cells import difference
from mmfocal.benchmark.paper.page import render_html, render_markdown
from mmfocal.benchmark.paper.report import make_report
from mmfocal.errors import ConfigError
from mmfocal.visualization import pages
from mmfocal.visualization.plotting import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH

CONFIGS = Path(__file__).parents[3] / 'configs'
DATE = '20260101_000000'
LOG = (
    'System environment:\n    CUDA available: True\n    GPU 0,1: NVIDIA H200\n'
    'Runtime environment:\n    GPU number: 8\n-----\n'
    'Epoch(val) [36][625/625]  x\n'
)


def write(root, config, ap, epochs=36, options=None, log=LOG, folder=None, real_dump=False):
    """A work directory with a training of a config as MMEngine leaves it."""
    work_dir = root / (folder or config)
    (work_dir / DATE / 'vis_data').mkdir(parents=True)
    cfg = Config.fromfile(CONFIGS / f'{config}.py', import_custom_modules=False)
    cfg.merge_from_dict(options or {})
    path = work_dir / f'{config}.py'
    if real_dump:  # in seconds
        cfg.dump(path)
    else:
        path.write_text(''.join(f'{key} = {value!r}\n' for key, value in cfg.to_dict().items()))
    records = [
        dict(loss=2.0 / i, time=0.5, memory=4000, iter=50 * i, epoch=i, step=50 * i) for i in range(1, epochs + 1)
    ]
    records += [
        {
            'coco/bbox_mAP': ap / 100,
            'coco/bbox_mAP_50': ap / 80,
            'coco/bbox_mAP_75': ap / 90,
            'time': 0.1,
            'step': epochs,
        }
    ]
    (work_dir / DATE / 'vis_data/scalars.json').write_text(''.join(json.dumps(one) + '\n' for one in records))
    (work_dir / DATE / f'{DATE}.log').write_text(log)
    return work_dir


def row_of(report, config, part='tables'):
    return next(
        row for table in report[part] for group in table['groups'] for row in group['rows'] if row['config'] == config
    )


def test_ours_beside_the_papers(tmp_path, monkeypatch):
    monkeypatch.setenv('COCO_ROOT', '/elsewhere/coco')  # a path does not decide
    write(tmp_path, 'atss_focal_tiny_3x', 49.1, real_dump=True)
    write(
        tmp_path,
        'atss_swin_tiny_3x',
        47.5,
        options={
            'model.backbone.init_cfg': None,
            'train_dataloader.num_workers': 7,
            'train_cfg.type': 'EpochBasedTrainLoop',  # what configs named before
        },
    )
    monkeypatch.delenv('COCO_ROOT')
    report = make_report(str(tmp_path), CONFIGS)
    assert [part['table'] for part in report['tables']] == ['5'] and not report['shapes'] and not report['others']
    row = row_of(report, 'atss_focal_tiny_3x')
    assert row['ours']['box_ap'] == pytest.approx(49.1) and row['paper']['box_ap'] == 49.5 and not row['status']
    assert difference(row, 'box_ap') == pytest.approx(-0.4) and difference(row, 'flops_g') == pytest.approx(
        -6.3, abs=0.1
    )
    assert row['latency_ms'] == pytest.approx(100) and row['device'] == 'NVIDIA H200'
    missing = row_of(report, 'atss_r50_3x')
    assert missing['status'] == 'missing' and 'box_ap' not in missing['ours'] and missing['paper']['box_ap'] == 43.5
    assert difference(missing, 'box_ap') is None and missing['ours']['params_m'] == pytest.approx(32.3, abs=0.05)
    assert '| ATSS | Focal-Tiny | 36.6 | 36.8 | −0.7 % | 224 | 239 | −6.3 % | 49.1 | 49.5 | −0.4 |' in render_markdown(
        report
    )


@pytest.mark.parametrize(
    'made, why',
    [
        (dict(epochs=12), '12 of 36 epochs done'),
        (
            dict(epochs=12, options={'train_cfg.max_epochs': 12}),
            'train_cfg.max_epochs: not as in configs/atss_focal_tiny_3x.py',
        ),
        (
            dict(options={'optim_wrapper.optimizer.lr': 1e-3, 'model.neck.out_channels': 64}),
            'model.neck.out_channels, optim_wrapper.optimizer.lr: not as in',
        ),
        (dict(options={'train_dataloader.dataset.indices': 100}), 'train_dataloader.dataset.indices: not as in'),
        (dict(log=LOG.replace('625', '50')), 'validated on about 400 images instead of 5000'),
    ],
)
def test_other_runs_are_not_compared_with_the_paper(tmp_path, made, why):
    write(tmp_path, 'atss_focal_tiny_3x', 63.21, **made)
    report = make_report(str(tmp_path), CONFIGS)
    row = row_of(report, 'atss_focal_tiny_3x')
    assert row['status'] == 'not comparable' and 'box_ap' not in row['ours'] and row['run'] is None
    (other,) = report['others']
    assert why in '; '.join(other['why']) and other['figures']['box_ap'] == pytest.approx(63.21)
    table, others = render_html(report).split('Runs that are in no table')
    assert '63.2' not in table.split('Training curves')[0] and '63.2' in others and why in others


def test_classifiers_and_ablations(tmp_path):
    """A run belongs to the table that `run` was asked for, or else to the first with its config."""
    log = LOG.replace('[36][625/625]', '[300][49/49]')
    work_dir = write(tmp_path, 'focal_tiny_300e_imagenet', 0, epochs=300, log=log)
    scalars = work_dir / DATE / 'vis_data/scalars.json'
    *training, _ = scalars.read_text().splitlines()
    metrics = {'accuracy/top1': 82.34, 'accuracy/top5': 96.0, 'time': 0.1, 'step': 300}
    scalars.write_text('\n'.join([*training, json.dumps(metrics)]) + '\n')
    report = make_report(str(tmp_path), CONFIGS)
    assert [part['table'] for part in report['tables']] == ['2'] and not report['others']
    row = row_of(report, 'focal_tiny_300e_imagenet')
    assert (row['ours']['top1'], row['paper']['top1'], row['status']) == (82.34, 82.2, '')
    assert '| Classifier | Focal-Tiny | 28.8 | 29.1 | −0.9 % | 4.9 | 4.9 | +0.8 % | 82.3 | 82.2 | +0.1 |' in (
        render_markdown(report)
    )
    assert row_of(report, 'cvt_13_300e_imagenet')['status'] == 'missing'

    write(tmp_path, 'mask_rcnn_focal_tiny_shift_1x', 44.0, epochs=12)
    report = make_report(str(tmp_path), CONFIGS)
    assert [part['table'] for part in report['tables']] == ['2', '9']
    (work_dir / 'benchmark.json').write_text(json.dumps(dict(config='focal_tiny_300e_imagenet', table=9)))
    report = make_report(str(tmp_path), CONFIGS)
    assert [part['table'] for part in report['tables']] == ['9'] and not report['others']
    assert row_of(report, 'mask_rcnn_focal_tiny_shift_1x')['ours']['box_ap'] == pytest.approx(44.0)
    text = render_markdown(report)
    assert '| Classifier | Focal-Tiny, without shift | 28.8 | – | – | 4.9 | – | – | 82.3 | 82.2 | +0.1 |' in text
    assert '| Mask R-CNN | Focal-Tiny, with shift | 48.6 | – | – | 276 | – | – | 44.0 | 44.9 | −0.9 |' in text
    assert 'colspan="3" scope="colgroup">top-1</th>' in render_html(report)


@pytest.mark.parametrize(
    'backbone, family',
    [('DeiT-Small/16', 'ViT'), ('ViT-Base/16', 'ViT'), ('CvT-13', 'CvT'), ('Swin-Tiny, window 7', 'Swin')],
)
def test_families(backbone, family):
    assert plots.family(backbone) == family


def test_shapes_have_their_own_table_without_the_papers_figures(tmp_path):
    write(tmp_path, 'atss_focal_nano_shapes', 61.0, epochs=3)
    write(tmp_path, 'atss_r_nano_shapes', 55.0, epochs=2)
    report = make_report(str(tmp_path), CONFIGS)
    assert [part['table'] for part in report['tables']] == ['5'] and not any(
        row['run'] for row in report['tables'][0]['groups'][0]['rows']
    )
    row = row_of(report, 'atss_focal_nano_shapes', 'shapes')
    assert row['ours']['box_ap'] == pytest.approx(61.0) and not row['paper'] and not row['unfinished']
    assert row_of(report, 'atss_r_nano_shapes', 'shapes')['unfinished']
    assert row_of(report, 'sparse_rcnn_swin_nano_shapes', 'shapes')['status'] == 'missing'
    html = render_html(report)
    section = html.split('on generated shapes</h2>')[1].split('</section>')[0]
    assert '61.0' in section and 'class="paper"' not in section and 'nothing here may be compared' in section


@pytest.mark.parametrize(
    'table, metrics, rows',
    [
        ('3', [['box_ap'], ['box_ap', 'mask_ap']], [16, 16]),
        (
            '4',
            [
                ['box_ap', 'box_ap50', 'box_ap75', 'box_ap_s', 'box_ap_m', 'box_ap_l'],
                ['box_ap', 'box_ap50', 'box_ap75', 'mask_ap', 'mask_ap50', 'mask_ap75'],
            ],
            [16, 16],
        ),
        ('5', [['box_ap', 'box_ap50', 'box_ap75']], [12]),
        ('2', [['top1']], [20]),
        ('8', [['top1'], ['box_ap', 'mask_ap']], [4, 4]),
        ('9', [['top1'], ['box_ap', 'mask_ap']], [4, 4]),
        ('10', [['top1'], ['box_ap', 'mask_ap']], [6, 6]),
        ('ADE20K', [['miou', 'miou_ms']], [4]),
    ],
)
def test_groups_and_columns_are_the_papers(tmp_path, table, metrics, rows):
    write(tmp_path, 'atss_focal_nano_shapes', 61.0, epochs=3)
    report = make_report(str(tmp_path), CONFIGS, [table])
    groups = report['tables'][0]['groups']
    assert [group['metrics'] for group in groups] == metrics and [len(group['rows']) for group in groups] == rows
    assert {row['status'] for group in groups for row in group['rows']} == {'missing'}
    assert render_html(report).count('<tbody>') >= len(groups)


class Tags(HTMLParser):
    """Collects the tags, addresses and text of a page."""

    def __init__(self):
        super().__init__()
        self.opened, self.addresses, self.text = [], [], ''

    def handle_starttag(self, tag, attrs):
        self.opened.append(tag)
        self.addresses += [value for name, value in attrs if name in ('src', 'href', 'action', 'data', 'srcset')]

    def handle_data(self, data):
        self.text += data


def test_the_page_is_self_contained_and_escapes_everything(tmp_path):
    evil = '<script>alert(1)</script> "x" =cmd()|`|'.replace('/', '∕')
    log = LOG.replace('NVIDIA H200', 'X</svg><img src=x onerror=alert(2)>')
    work_dir = write(tmp_path, 'atss_focal_tiny_3x', 49.0, folder=f'a{evil}', log=log)
    (work_dir / 'benchmark.json').write_text(
        json.dumps(dict(commit='<b>c', failed='</table><iframe>', packages={'<i>': '<u>'}))
    )
    write(tmp_path, 'atss_r50_3x', 40.0, folder=f'={evil}', log=log)
    write(tmp_path, 'atss_swin_tiny_3x', 40.0, folder='@b', log=log, epochs=2)
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    module.main(
        argparse.Namespace(**vars(parser.parse_args([str(tmp_path), '--out', str(tmp_path / 'out')])), configs=CONFIGS)
    )
    html = (tmp_path / 'out/report.html').read_text()
    tags = Tags()
    tags.feed(html)
    assert (
        tags.opened.count('script') == 1
        and not {'img', 'iframe', 'i>', 'u', 'link'} & set(tags.opened)
        and not tags.addresses
    )
    assert '</table><iframe>' in tags.text and '<b>c' in tags.text and 'X</svg><img' in tags.text and evil in tags.text
    assert "default-src 'none'" in html and not re.search(r'url\(|@import|fetch\(|https?:', html.split('<body>')[0])
    for svg in re.findall(r'<svg.*?</svg>', html, re.S):
        ElementTree.fromstring(svg)
    for name in ('report.md', 'report.csv'):
        assert (tmp_path / 'out' / name).stat().st_size > 500
    assert '<script>' not in (tmp_path / 'out/report.md').read_text().replace('\\<script\\>', '')
    rows = list(csv.DictReader((tmp_path / 'out/report.csv').open()))
    assert not any(str(cell)[:1] in '=+@' for row in rows for cell in row.values() if cell)
    found = next(row for row in rows if row['config'] == 'atss_focal_tiny_3x')
    assert float(found['box_ap']) == pytest.approx(49.0) and float(found['paper_box_ap']) == 49.5
    assert json.loads((tmp_path / 'out/report.json').read_text())['tables'][0]['table'] == '5'


def test_a_failed_cell(tmp_path):
    cell = tmp_path / 'atss_focal_tiny_3x'
    cell.mkdir()
    (cell / 'benchmark.json').write_text(json.dumps(dict(config='atss_focal_tiny_3x', failed='error: no images')))
    report = make_report(str(tmp_path), CONFIGS)
    assert row_of(report, 'atss_focal_tiny_3x')['status'] == 'failed' and 'failed: error: no images' in render_html(
        report
    )


def test_the_newest_finished_run_is_shown(tmp_path):
    write(tmp_path, 'atss_focal_nano_shapes', 50.0, epochs=3, folder='a')
    write(tmp_path, 'atss_focal_nano_shapes', 60.0, epochs=3, folder='b')
    write(tmp_path, 'atss_focal_nano_shapes', 70.0, epochs=1, folder='c')
    (tmp_path / 'b' / DATE).rename(tmp_path / 'b/20260301_000000')
    report = make_report(str(tmp_path), CONFIGS)
    row = row_of(report, 'atss_focal_nano_shapes', 'shapes')
    assert row['run'] == 'b' and row['of'] == 3


def test_no_such_table(tmp_path):
    write(tmp_path, 'atss_focal_nano_shapes', 61.0, epochs=3)
    with pytest.raises(ConfigError, match='--table 6'):
        make_report(str(tmp_path), CONFIGS, ['6'])


def svg_of(text):
    return ElementTree.fromstring(text), '{http://www.w3.org/2000/svg}'


def test_plots_of_nothing():
    assert plots.plot_scatter({'ours': {}}, 'x', 'y', 'l') is None
    assert plots.plot_gains([], 'y', 'l') is None
    assert plots.plot_curves([], 'x', 'y', 'l') is None
    assert plots.plot_curves([('Focal', 'run', [])], 'x', 'y', 'l') is None


@pytest.mark.parametrize(
    'svg, title',
    [
        (
            plots.plot_scatter({'ours': {'Focal': [(1.0, 50.0, '<A> $x^2$')]}}, 'x', 'y', 'a "b"'),
            '<A> $x^2$, Focal: 50.0 at 1',
        ),
        (plots.plot_gains([('A & B', {'Swin': {'paper': -1.0}})], 'y', 'a "b"'), 'A & B over Swin, the paper’s: -1.0'),
        (plots.plot_curves([('Focal', 'r"$_$', [(1, 2.0)])], 'x', 'loss', 'a "b"'), 'r"$_$: 2 at 1'),
    ],
    ids=['scatter', 'gains', 'curves'],
)
def test_plots_are_accessible_and_in_the_pages_colours(svg, title):
    root, ns = svg_of(svg)
    assert root.attrib['role'] == 'img' and root.attrib['aria-label'] == 'a "b"'
    assert [one.text for one in root.iter(f'{ns}title')] == [title]
    assert not re.search('#[0-9a-f]{6}', svg.replace('#m', '')) and 'var(--' in svg
    css = Path(pages.__file__).with_name('page.css').read_text()
    for name in set(re.findall(r'var\(--(\w+)\)', svg)):
        assert css.count(f'--{name}: ') == 3, 'light, dark by the system, dark by the button'
    assert not [one for one in root.iter(f'{ns}g') if 'id' in one.attrib]


def test_all_points_are_inside_round_axes():
    found = {'Focal': [(239.0, 43.7, 'a'), (531.0, 47.3, 'b')]}
    svg = plots.plot_scatter({'ours': found, 'paper': {'Swin': [(204.5, 42.0, 'c')]}}, 'GFLOPs', 'AP', 'l')
    root, ns = svg_of(svg)
    points = [(float(one.attrib['x']), float(one.attrib['y'])) for one in root.iter(f'{ns}use')]
    assert len(points) == 3
    for x, y in points:
        assert LEFT <= x <= WIDTH - RIGHT and TOP <= y <= HEIGHT - BOTTOM
    texts = [one.text for one in root.iter(f'{ns}text')]
    assert texts[:5] == ['200', '300', '400', '500', '600'] and {'42', '44', '46', '48', 'GFLOPs', 'AP'} <= set(texts)


def test_high_losses_are_clipped():
    losses = [(1, 100.0), (2, 1.0), (3, 1.0), (4, 1.0)]
    root, ns = svg_of(plots.plot_curves([('Focal', 'a', losses)], 'iterations', 'loss', 'l'))
    labels = [one.text for one in root.iter(f'{ns}text')]
    assert '2.5' in labels and '100' not in labels


def test_labels_cover_no_point_and_no_other_label():
    dots = [(100.0, 100.0), (118.0, 92.0), (300.0, 20.0), (540.0, 60.0)]
    boxes = []
    for text, (x, y) in zip(('Sparse R-CNN', 'ATSS', 'RepPointsV2', 'Cascade Mask R-CNN'), dots):
        boxes.append(plots.label_box(text, x, y, 560, dots, boxes))
    for i, (left, top, right, base) in enumerate(boxes):
        assert 0 <= left < right <= 560 and top >= 0
        assert not any(left < x < right and top < y < base for x, y in dots)
        assert not any(
            left < other[2] and other[0] < right and top < other[3] and other[1] < base for other in boxes[:i]
        )
