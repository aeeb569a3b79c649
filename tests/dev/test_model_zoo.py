"""dev/model_zoo.py writes configs/metafile.yml, configs/README.md and docs/models/zoo.md; MIM finds the configs."""

import json
import re
import runpy
from pathlib import Path

import pytest
from mmengine import load
from mmengine.config import Config
from mmengine.config.utils import _get_cfg_metainfo

import mmfocal
from mmfocal.benchmark.paper.tables import DETECTION_SIZE, paper_rows
from mmfocal.errors import ConfigError, MissingFileError

ROOT = Path(__file__).parents[2]
TOOL = runpy.run_path(str(ROOT / 'dev/model_zoo.py'))
METAFILE = load(ROOT / 'configs/metafile.yml')
MODELS = {model['Name']: model for model in METAFILE['Models']}


@pytest.mark.configs
def test_committed_metafile():
    assert TOOL['to_yaml'](TOOL['make_metafile'](METAFILE, [])) == (ROOT / 'configs/metafile.yml').read_text(), (
        'run dev/model_zoo.py'
    )


def test_committed_pages():
    for path, make in (('docs/models/zoo.md', 'make_zoo'), ('configs/README.md', 'make_index')):
        assert TOOL[make](METAFILE) == (ROOT / path).read_text(), 'run dev/model_zoo.py'


def test_every_config_is_there_once():
    paths = sorted(model['Config'] for model in METAFILE['Models'])
    assert paths == sorted(f'configs/{path.name}' for path in (ROOT / 'configs').glob('*.py'))
    assert {model['In Collection'] for model in METAFILE['Models']} == {
        collection['Name'] for collection in METAFILE['Collections']
    }
    assert not any('Weights' in model for model in METAFILE['Models']), 'none are released'


def test_figures_of_the_paper_and_ours_are_separate():
    rows = {row['config'] for row in paper_rows()}
    assert {name for name, model in MODELS.items() if 'Paper Results' in model} == rows
    assert MODELS['mask_rcnn_focal_tiny_3x']['Paper Results'] == {
        'Table': 4,
        'box AP': 47.2,
        'mask AP': 42.7,
        'Parameters (M)': 48.8,
        'FLOPs (G)': 291.0,
    }
    assert MODELS['upernet_focal_tiny_160k_ade20k']['Paper Results'] == {
        'Table': 'ADE20K',
        'mIoU': 45.8,
        'mIoU (MS)': 47.0,
        'Parameters (M)': 62.0,
        'FLOPs (G)': 998.0,
    }
    for name, model in MODELS.items():
        for result in model.get('Results', ()):
            assert result['Task'] in (
                'Object Detection',
                'Instance Segmentation',
                'Panoptic Segmentation',
                'Semantic Segmentation',
            )
            assert 0 < min(result['Metrics'].values())
            assert result['Dataset'] == model['Metadata']['Training Data'], name


def test_zoo():
    text = (ROOT / 'docs/models/zoo.md').read_text()
    assert {name: text.count(f'[`{name}`](../../configs/{name}.py)') for name in MODELS} == dict.fromkeys(MODELS, 1)
    model = dict(
        MODELS['mask_rcnn_focal_tiny_3x'],
        Metadata=dict(Parameters=48555000, FLOPs=275900000000),
        Results=[
            dict(Task='Object Detection', Metrics={'box AP': 12.34}),
            dict(Task='Instance Segmentation', Metrics={'mask AP': 5}),
        ],
    )
    link = '[`mask_rcnn_focal_tiny_3x`](../../configs/mask_rcnn_focal_tiny_3x.py)'
    assert TOOL['zoo_row'](model) == [link, '48.55', '275.9', '47.2 / 42.7 (Table 4)', '12.3 / 5.0']
    model = dict(
        MODELS['upernet_focal_large_160k_ade20k'],
        Results=[dict(Task='Semantic Segmentation', Metrics={'mIoU (MS)': 7, 'mIoU': 6.5})],
    )
    flops, *figures = TOOL['zoo_row'](model)[2:]
    assert flops.endswith(' (at 2560×640)') and figures == ['54.0 / 55.4 (README)', '6.5 / 7.0']


def test_columns_that_nobody_filled_are_not_shown():
    rows = [['a', '', '1', ''], ['b', '', '', '']]
    assert TOOL['table'](('Config', 'GFLOPs', 'Paper', 'mmfocal'), rows) == (
        '| Config | Paper |\n| --- | --- |\n| a | 1 |\n| b |  |\n'
    )
    for path in ('docs/models/zoo.md', 'configs/README.md'):
        table = []
        for line in [*(ROOT / path).read_text().splitlines(), '']:
            if line.startswith('|'):
                table.append([cell.strip() for cell in line.strip('|').split('|')])
            elif table:
                assert all(any(column) for column in zip(*table[2:], strict=True)), (path, table[0])
                table = []


def test_index_links_every_config():
    text = (ROOT / 'configs/README.md').read_text()
    assert set(re.findall(r'\((\w+)\.py\)', text)) == set(MODELS)
    cell = TOOL['index_cell'](['atss_focal_tiny_3x', 'atss_focal_tiny_1x', 'atss_swin_tiny_3x'], 'focal')
    assert cell == '`focal_tiny` [3x](atss_focal_tiny_3x.py) [1x](atss_focal_tiny_1x.py)'


def test_names():
    split = TOOL['split_name']
    assert split('atss_focal_tiny_3x') == ('atss', 'focal_tiny', '3x')
    assert split('atss_dyhead_focal_large_3x') == ('atss_dyhead', 'focal_large', '3x')
    assert split('mask2former_focal_tiny_160k_ade20k') == ('mask2former', 'focal_tiny', '160k_ade20k')
    assert split('upernet_focal_tiny_conv_160k_ade20k') == ('upernet', 'focal_tiny_conv', '160k_ade20k')
    with pytest.raises(ConfigError, match=r'configs/fcos_r50_1x.py: unknown method; add it to METHODS in'):
        split('fcos_r50_1x')
    with pytest.raises(ConfigError, match=r'configs/atss_r50_2x.py: unknown schedule; add it to SCHEDULES in'):
        split('atss_r50_2x')


def counted(path, config, size=DETECTION_SIZE):
    """A JSON file as `tools/benchmark.py complexity --out` writes it."""
    model = dict(config=config, width=size[0], height=size[1], params={'': 5}, flops={'': 7})
    path.write_text(json.dumps(dict(models=[model])))
    return path


def test_counts_serve_all_configs_of_the_same_model(tmp_path):
    counts = TOOL['read_counts']([counted(tmp_path / 'counts.json', 'retinanet_focal_tiny_3x')])
    same = [
        name
        for name in (
            'retinanet_focal_tiny_1x',
            'retinanet_focal_tiny_3x',
            'retinanet_focal_small_1x',
            'mask_rcnn_focal_tiny_1x',
        )
        if TOOL['architecture'](Config.fromfile(ROOT / f'configs/{name}.py')) in counts
    ]
    assert same == ['retinanet_focal_tiny_1x', 'retinanet_focal_tiny_3x']
    path = ROOT / 'configs/retinanet_focal_tiny_1x.py'
    before = dict(Metadata=dict(Parameters=1, FLOPs=2, Other=3), Results=[4])
    model = TOOL['describe'](path, before, counts)
    assert model['Metadata'] == {
        'Training Data': 'COCO 2017',
        'Epochs': 12,
        'Batch Size': 16,
        'Parameters': 5,
        'FLOPs': 7,
    }
    assert model['Results'] == [4]
    assert TOOL['describe'](path, before, {})['Metadata']['FLOPs'] == 2
    path = ROOT / 'configs/upernet_focal_large_160k_ade20k.py'
    assert TOOL['describe'](path, {}, {})['Metadata'] == {
        'Training Data': 'ADE20K',
        'Iterations': 160000,
        'Batch Size': 16,
        'Image Size': '2560×640',
    }


def test_counts_that_do_not_fit(tmp_path):
    with pytest.raises(MissingFileError, match='none.json: no such file; write it with tools/benchmark.py complexity'):
        TOOL['read_counts']([tmp_path / 'none.json'])
    for config, size in (('atss_r50_3x', '1280×800'), ('upernet_r50_160k_ade20k', '2048×512')):
        with pytest.raises(
            ConfigError, match=f'counts.json: {config} was counted at 640×480 pixels; count it at {size}, without'
        ):
            TOOL['read_counts']([counted(tmp_path / 'counts.json', config, (640, 480))])


def test_mim_finds_the_configs():
    package = Path(mmfocal.__file__).parent
    for name in ('atss_focal_tiny_3x', 'mask_rcnn_r50_1x'):
        model = _get_cfg_metainfo(str(package), f'{name}.py')
        assert Config.fromfile(package / '.mim' / model['Config']).model.backbone.type in ('FocalTransformer', 'ResNet')
    assert (package / '.mim/tools/train.py').is_file()
