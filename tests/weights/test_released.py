import runpy
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from mmfocal.errors import CheckpointError, ConfigError, MissingFileError
from mmfocal.models import FocalTransformer
from mmfocal.weights.released import convert_released, merge_neighbors

ROOT = Path(__file__).parents[2]
GOLDEN = np.load(ROOT / 'tests/data/classification_224.npz', allow_pickle=False)
ARCH = dict(embed_dims=8, depths=(1, 1, 2, 1), num_heads=(1, 1, 2, 2))


def released_state_dict():
    """A released file's `model`: the golden weights, and the index buffers that such files hold."""
    state_dict = {
        key[len('state_dict/') :]: torch.from_numpy(GOLDEN[key])
        for key in GOLDEN.files
        if key.startswith('state_dict/')
    }
    attn = 'layers.0.blocks.0.attn'
    state_dict[f'{attn}.relative_position_index'] = torch.zeros(49, 49, dtype=torch.long)
    state_dict[f'{attn}.relative_position_index_to_windows.0'] = torch.zeros(49, 49, dtype=torch.long)
    state_dict[f'{attn}.valid_ind_rolled'] = torch.zeros(132, dtype=torch.long)
    state_dict['layers.0.blocks.0.attn_mask'] = torch.zeros(64, 49, 49)
    return state_dict


@pytest.fixture
def released(tmp_path):
    path = tmp_path / 'focal_released.pth'
    torch.save(dict(model=released_state_dict(), epoch=299), path)
    return path


def backbone(path, **kwargs):
    model = FocalTransformer(
        **{
            'arch': ARCH,
            'expand_sizes': (3, 3, 3, 0),
            'init_cfg': dict(type='Pretrained', checkpoint=str(path)),
            **kwargs,
        }
    )
    model.init_weights()
    return model.eval()


def test_released_file_gives_the_released_numbers(released):
    model = backbone(released)
    out = model(torch.from_numpy(GOLDEN['input']))[-1].mean((2, 3))
    logits = torch.nn.functional.linear(
        out, torch.from_numpy(GOLDEN['state_dict/head.weight']), torch.from_numpy(GOLDEN['state_dict/head.bias'])
    )
    torch.testing.assert_close(logits, torch.from_numpy(GOLDEN['logits']), rtol=1e-4, atol=1e-5)


def test_log(released, monkeypatch):
    lines = []
    monkeypatch.setattr('mmfocal.weights.backbone.print_log', lambda line, logger: lines.append(line))
    model = backbone(released, expand_sizes=(3, 3, 3, 3))
    loaded, new, ignored = lines
    assert 'a released Focal checkpoint (4 neighbour tables merged' in loaded and str(released) in loaded
    assert new.endswith('the file lacks them: stages.3.blocks.*.attn.ring_bias_table, norm0, norm1, norm2')
    assert 'head,' in ignored and 'attn_mask' in ignored and 'relative_position_index' in ignored
    assert model.stages[3].blocks[0].attn.ring_bias_table.std() > 0


def test_training_checkpoint_of_the_released_code(tmp_path, monkeypatch):
    """Such a file holds its yacs settings too."""
    yacs = types.ModuleType('yacs.config')
    yacs.CfgNode = type('CfgNode', (dict,), dict(__module__='yacs.config'))
    monkeypatch.setitem(sys.modules, 'yacs', types.ModuleType('yacs'))
    monkeypatch.setitem(sys.modules, 'yacs.config', yacs)
    config = yacs.CfgNode(MODEL=yacs.CfgNode(NAME='focal'))
    config.__dict__['__immutable__'] = True
    torch.save(dict(model=released_state_dict(), config=config, max_accuracy=82.2), tmp_path / 'training.pth')
    backbone(tmp_path / 'training.pth')


def test_all_outputs_but_the_last(released):
    assert [out.shape[1] for out in backbone(released, out_indices=(1, 2))(torch.zeros(1, 3, 64, 64))] == [16, 32]


@pytest.mark.parametrize(
    'prefix, key', [('', None), ('', 'state_dict'), ('backbone.', 'state_dict'), ('module.backbone.', 'state_dict')]
)
def test_our_own_files(tmp_path, released, prefix, key):
    model = backbone(released)
    state_dict = {f'{prefix}{name}': value for name, value in model.state_dict().items()}
    if 'backbone' in prefix:
        state_dict['bbox_head.atss_cls.weight'] = torch.zeros(4)
    torch.save({key: state_dict, 'meta': {}} if key else state_dict, tmp_path / 'ours.pth')
    again = backbone(tmp_path / 'ours.pth')
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_converter(released, tmp_path, monkeypatch, capsys):
    def convert(*args):
        monkeypatch.setattr(sys, 'argv', ['released_to_mmfocal.py', *map(str, args)])
        runpy.run_path(str(ROOT / 'tools/model_converters/released_to_mmfocal.py'), run_name='__main__')

    convert(released, tmp_path / 'ours.pth')
    assert 'left out: 6' in capsys.readouterr().out
    a, b = backbone(tmp_path / 'ours.pth'), backbone(released)
    x = torch.from_numpy(GOLDEN['input'])
    torch.testing.assert_close(a(x)[-1], b(x)[-1], rtol=0, atol=0)

    for args, sentence in (
        ((released, tmp_path / 'ours.pth'), 'exists already'),
        ((tmp_path / 'no.pth', tmp_path / 'x.pth'), 'no.pth'),
    ):
        with pytest.raises(SystemExit):
            convert(*args)
        error = capsys.readouterr().err
        assert sentence in error and error.startswith('error: ') and error.count('\n') == 1


def test_merged_columns_act_as_the_doubled_keys():
    """A softmax over the released 132 columns and over our 120, for the same 13 × 13 region of keys."""
    torch.manual_seed(0)
    table = torch.randn(1, 2, 49, 132, dtype=torch.float64)
    logits, values = torch.randn(49, 13, 13, dtype=torch.float64), torch.randn(13, 13, dtype=torch.float64)

    keep = [
        [(r, c) for r in range(7) for c in range(7) if test(r, c)]
        for test in (
            lambda r, c: r >= 4 or c >= 4,
            lambda r, c: r >= 4 or c <= 2,
            lambda r, c: r <= 2 or c >= 4,
            lambda r, c: r <= 2 or c <= 2,
        )
    ]
    shifts = ((-3, -3), (-3, 3), (3, -3), (3, 3))
    tokens = [(r - dr + 3, c - dc + 3) for (dr, dc), kept in zip(shifts, keep) for r, c in kept]
    assert len(tokens) == 132
    doubled = torch.stack([logits[:, r, c] for r, c in tokens], 1) + table[0]
    expected = doubled.softmax(-1) @ torch.stack([values[r, c] for r, c in tokens])

    ring = [(r, c) for r in range(13) for c in range(13) if not (3 <= r < 10 and 3 <= c < 10)]
    merged = torch.stack([logits[:, r, c] for r, c in ring], 1) + merge_neighbors(table)
    torch.testing.assert_close(merged.softmax(-1) @ torch.stack([values[r, c] for r, c in ring]), expected)


@pytest.mark.parametrize('window_size, e', [(7, 1), (14, 3), (14, 7), (4, 2)])
def test_other_windows_convert(window_size, e):
    columns = 4 * (window_size**2 - (window_size - e) ** 2)
    table = merge_neighbors(torch.zeros(1, 1, window_size**2, columns))
    assert table.shape == (1, window_size**2, (window_size + 2 * e) ** 2 - window_size**2)
    # how often each token came: once or twice, and every column is counted
    assert table.exp().round().unique().tolist() in ([1.0], [1.0, 2.0])
    assert table[0, 0].exp().sum().round() == columns


@pytest.mark.parametrize('shape', [(1, 2, 49, 131), (1, 2, 48, 132), (49, 132)])
def test_tables_that_fit_no_window(shape):
    with pytest.raises(ValueError, match='fits no window size and expansion'):
        merge_neighbors(torch.zeros(shape))


def test_every_name_is_converted_or_ignored():
    converted, ignored = convert_released(released_state_dict())
    names = set(backbone_names())
    assert set(converted) <= names
    assert sorted(name.split('.')[-1] for name in ignored if not name.startswith('head')) == [
        '0',
        'attn_mask',
        'relative_position_index',
        'valid_ind_rolled',
    ]


def backbone_names():
    return FocalTransformer(arch=ARCH).state_dict()


@pytest.mark.parametrize(
    'change, sentence',
    [
        (
            dict(arch=dict(ARCH, embed_dims=16)),
            r'patch_embed.proj.weight is \(8, 3, 4, 4\) in the file and \(16, 3, 4, 4\) in the model',
        ),
        (dict(arch=dict(ARCH, depths=(1, 1, 3, 1))), r'it lacks stages.2.blocks.2.norm1.weight'),
        (dict(arch=dict(ARCH, depths=(1, 1, 1, 1))), r'the model has no stages.2.blocks.1'),
        (dict(expand_sizes=(0, 3, 3, 0)), r'the model has no stages.0.blocks.0.attn.ring_bias_table'),
        (dict(focal_pool='mean'), r'the model has no stages.0.blocks.0.attn.pool_layers.0'),
        (dict(focal_levels=(3, 2, 2, 2)), r'it lacks stages.0.blocks.0.attn.pool'),
    ],
)
def test_a_file_of_another_size(released, change, sentence):
    with pytest.raises(CheckpointError, match=sentence) as info:
        backbone(released, **change)
    assert '\n' not in str(info.value) and 'focal_released.pth' in str(info.value)


def test_a_file_of_another_model(tmp_path):
    torch.save(dict(state_dict={'conv1.weight': torch.zeros(3)}), tmp_path / 'resnet.pth')
    with pytest.raises(CheckpointError, match='resnet.pth: it holds no Focal or Swin Transformer'):
        backbone(tmp_path / 'resnet.pth')
    torch.save(dict(model=[1, 2]), tmp_path / 'list.pth')
    with pytest.raises(CheckpointError, match='list.pth: it holds no state dict'):
        backbone(tmp_path / 'list.pth')
    # a released Focal model of the fine level alone
    local = {
        name: value for name, value in released_state_dict().items() if 'pool_layers' not in name and '_to_' not in name
    }
    torch.save(dict(model=local), tmp_path / 'local.pth')
    with pytest.raises(CheckpointError, match='local.pth does not fit this FocalTransformer: it lacks stages.0'):
        backbone(tmp_path / 'local.pth')


def test_absent_and_broken_files(tmp_path):
    with pytest.raises(MissingFileError, match='none.pth'):
        backbone(tmp_path / 'none.pth')
    (tmp_path / 'cut.pth').write_bytes(b'PK\x03\x04 not whole')
    with pytest.raises(CheckpointError, match='cut.pth'):
        backbone(tmp_path / 'cut.pth')


def test_training_from_scratch_is_explicit():
    before = FocalTransformer(arch=ARCH, init_cfg=dict(type='Pretrained', checkpoint='none'))
    weight = before.patch_embed.proj.weight.clone()
    before.init_weights()
    assert torch.equal(weight, before.patch_embed.proj.weight)
    with pytest.raises(ConfigError, match='FOCAL_TINY to the path or URL of a checkpoint, or to none'):
        FocalTransformer(init_cfg=dict(type='Pretrained', checkpoint='')).init_weights()
