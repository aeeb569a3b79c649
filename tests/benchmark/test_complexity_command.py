"""`tools/benchmark.py complexity`."""

import argparse
import json
from pathlib import Path

import pytest

from mmfocal.benchmark import complexity
from mmfocal.cli import parse_args
from mmfocal.engine import command_line
from mmfocal.errors import MissingPackageError, UserError

ROOT = Path(__file__).parents[2]
DETECTOR = """
default_scope = 'mmdet'
custom_imports = dict(imports=['mmfocal.registration'], allow_failed_imports=False)
model = dict(
    type='ATSS', data_preprocessor=dict(type='DetDataPreprocessor'),
    backbone=dict(type='ResNet', depth=18, base_channels=8, frozen_stages=1),
    neck=dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=8, num_outs=5),
    bbox_head=dict(type='ATSSHead', num_classes=3, in_channels=8, feat_channels=8, norm_cfg=None,
        anchor_generator=dict(
            type='AnchorGenerator', ratios=[1.], octave_base_scale=8, scales_per_octave=1, strides=[4, 8, 16, 32, 64])))
"""
SEGMENTOR = """
default_scope = 'mmseg'
custom_imports = dict(imports=['mmfocal.registration'], allow_failed_imports=False)
model = dict(
    type='EncoderDecoder', data_preprocessor=dict(type='SegDataPreProcessor'),
    backbone=dict(
        type='FocalTransformer', arch=dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2)), border='mask'),
    decode_head=dict(
        type='FCNHead', in_channels=64, channels=16, num_convs=1, in_index=3, num_classes=5,
        norm_cfg=dict(type='SyncBN')),
    test_cfg=dict(mode='slide', crop_size=(32, 32), stride=(16, 16)))
"""


def run(monkeypatch, *args):
    """Runs tools/benchmark.py complexity in this process."""
    args = parse_args(['benchmark', 'complexity', *map(str, args)])
    args.main(args)


@pytest.fixture
def configs(tmp_path):
    """A detector whose name is in Table 5, and a segmentor."""
    (tmp_path / 'atss_swin_tiny_3x.py').write_text(DETECTOR)
    (tmp_path / 'fcn_focal.py').write_text(SEGMENTOR)
    return tmp_path


def test_configs_from_end_to_end(monkeypatch, capsys, configs, tmp_path):
    run(
        monkeypatch,
        configs / 'atss_swin_tiny_3x.py',
        configs / 'fcn_focal.py',
        '--size',
        96,
        64,
        '--by-layer',
        '--out',
        tmp_path / 'new' / 'out.json',
        '--cfg-options',
        'model.backbone.init_cfg=None',
    )
    output = capsys.readouterr().out
    first, second = (line.split(' | ') for line in output.splitlines() if line.startswith(('| atss', '| fcn')))
    record = json.loads((tmp_path / 'new' / 'out.json').read_text())
    assert record['counted'] == complexity.COUNTED and 'Image sizes are' not in output
    detector, segmentor = record['models']
    assert [(model['width'], model['height']) for model in record['models']] == [(96, 64)] * 2 and first[1] == second[
        1
    ] == '96×64'
    assert (
        float(first[2]) == pytest.approx(detector['params'][''] / 1e6, abs=0.01)
        and first[3] == '35.7'
        and first[4].endswith('%')
    )
    assert first[6:] == ['212', '– |']  # of another size: not to be compared
    assert second[3:5] == ['–', '–'] and segmentor['paper'] == {} and detector['paper']['flops_g'] == 212
    assert segmentor['flops']['decode_head'] == 2 * 3 * ((64 + 80) * 16 * 9 + 2 * 16 * 2 + 16 * 5)  # of the whole image
    assert all(f'| {name} |' in output for name in ('backbone.layer4', 'backbone.layer4.0', 'decode_head'))
    assert 'backbone.layer4.0.conv1' not in output and output.count('GFLOPs by operator: ') == 2
    assert (
        'max_pool2d 2' in output and detector['not_counted']['max_pool2d'] == 2
    )  # of the stem, and of the FPN's last level
    assert (
        f'atss_swin_tiny_3x {detector["frozen"] / 1e6:.2f}' in output and detector['frozen'] > 0 == segmentor['frozen']
    )


def table(configs, name, capsys):
    """Returns the output for one of the paper's tables with the configs there, and its rows."""
    parser = argparse.ArgumentParser()
    complexity.add_arguments(parser)
    complexity.main(parser.parse_args(['--table', name], argparse.Namespace(configs=configs)))
    output = capsys.readouterr().out
    return output, [line.split(' | ') for line in output.splitlines() if line.startswith('| ') and '---' not in line][
        1:
    ]


def test_a_table_lists_the_rows_that_have_no_config(capsys, configs):
    _, rows = table(configs, '5', capsys)
    assert len(rows) == 12 and [row[0] for row in rows if row[2] != 'no such config'] == ['| atss_swin_tiny_3x']
    assert rows[0] == [
        '| cascade_mask_rcnn_r50_3x',
        '1280×800',
        'no such config',
        '82',
        '–',
        'no such config',
        '739',
        '– |',
    ]
    assert rows[4][1] == '1280×800' and rows[4][3] == '35.7' and rows[4][6] == '212' and rows[4][7].startswith('-')
    output, _ = table(configs, '4', capsys)
    assert output.count('no such config') == 2 * 32


def test_a_table_names_the_package_that_a_row_needs(capsys, configs, monkeypatch):
    (configs / 'swin_tiny_300e_imagenet.py').write_text("default_scope = 'mmpretrain'\nmodel = dict(type='A')\n")
    (configs / 'mask_rcnn_swin_tiny_1x.py').write_text(DETECTOR)
    monkeypatch.setattr(command_line, 'find_spec', lambda name: None if name == 'mmpretrain' else name)
    output, rows = table(configs, '9', capsys)
    assert {row[0]: row[2] for row in rows if row[2] != 'no such config'}.keys() == {
        '| swin_tiny_300e_imagenet',
        '| mask_rcnn_swin_tiny_1x',
    }
    assert rows[1] == ['| swin_tiny_300e_imagenet', '224×224', *['not counted', '–', '–'] * 2][:7] + ['– |']
    message = (
        "Not counted, package mmpretrain not installed; pip install 'mmfocal[classification]': swin_tiny_300e_imagenet"
    )
    assert message in output
    with pytest.raises(MissingPackageError, match='package mmpretrain not installed'):
        run(monkeypatch, configs / 'swin_tiny_300e_imagenet.py')


def test_images_are_of_the_papers_sizes(monkeypatch, capsys, configs):
    large = configs / 'upernet_focal_large_160k_ade20k.py'
    large.write_text(SEGMENTOR)
    _, rows = table(configs, 'ADE20K', capsys)
    assert [row[1] for row in rows] == ['2048×512'] * 3 + ['2560×640']
    assert rows[3][3] == '240' and rows[3][6] == '3376' and rows[3][7].startswith('-')
    run(monkeypatch, configs / 'fcn_focal.py', large, '--out', configs / 'out.json')
    assert (
        'else 1280×800 for detectors, 2048×512 for segmentors and 224×224 for classifiers.' in capsys.readouterr().out
    )
    models = json.loads((configs / 'out.json').read_text())['models']
    assert [(model['width'], model['height']) for model in models] == [(2048, 512), (2560, 640)]


@pytest.mark.parametrize(
    'args, sentence',
    [
        ([], 'complexity: give either config files or --table N'),
        (['configs/atss_r50_3x.py', '--table', '5'], 'give either config files or --table N'),
        (['--table', '6'], '--table 6: no such table with configs; choose from 2, 3, 4, 5, 8, 9, 10, ADE20K'),
        (['configs/absent.py'], 'configs/absent.py: no such config'),
        (['--table', '5', '--out', f'{__file__}/out.json'], 'out.json: cannot write this file: File exists'),
    ],
)
def test_bad_arguments(monkeypatch, args, sentence):
    with pytest.raises(UserError) as info:
        run(monkeypatch, *args)
    assert sentence in str(info.value) and '\n' not in str(info.value)


@pytest.mark.parametrize('size', [('1280', 'x'), ('1280', '16'), ('-64', '64')])
def test_bad_sizes(monkeypatch, capsys, size):
    with pytest.raises(SystemExit):
        run(monkeypatch, '--table', '5', '--size', *size)
    assert 'argument --size: ' in capsys.readouterr().err
