"""Paddle's `.pdparams` files: PaddleViT's numbers, in every form of the file; hostile files are refused."""

import json
import lzma
import os
import pickle
import re
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmfocal.errors import CheckpointError
from mmfocal.models import FocalTransformer
from mmfocal.weights import load_checkpoint
from mmfocal.weights.backbone import backbone_weights
from mmfocal.weights.released import convert_paddle_layout

DATA = Path(__file__).parents[1] / 'data'
PADDLE = DATA / 'paddle'
GOLDEN = np.load(PADDLE / 'plain.npz', allow_pickle=False)
ARCH = {
    name: json.loads(str(GOLDEN['config']))[key]
    for name, key in dict(embed_dims='embed_dim', depths='depths', num_heads='num_heads').items()
}
STRIDES = (4, 2, 2, 1)  # of the stages' outputs that the golden file keeps
LINEAR = re.compile(r'(qkv|attn\.proj|fc[12]|pool_layers\.0|head)\.weight$')


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    """A file that Paddle wrote."""
    path = tmp_path_factory.mktemp('paddle') / 'plain.pdparams'
    path.write_bytes(lzma.decompress((PADDLE / 'plain.pdparams.xz').read_bytes()))
    return path


@pytest.fixture(scope='module')
def arrays(plain):
    """What it holds, as NumPy arrays."""
    return pickle.loads(plain.read_bytes())


def build(path, **kwargs):
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


def relative_error(a, b):
    b = torch.as_tensor(b).double()
    return (torch.linalg.vector_norm(a.double() - b) / torch.linalg.vector_norm(b)).item()


@pytest.mark.parametrize('backend', ['reference', 'gather'])
def test_numbers_of_paddlevit(plain, arrays, backend):
    """The golden numbers are float64, stored as float32: rounding alone is 3e-8."""
    model, stages = build(plain, attention_backend=backend).double(), []
    for stage in model.stages:
        stage.register_forward_hook(lambda module, args, out: stages.append(out[0].permute(0, 3, 1, 2)))
    with torch.no_grad():
        last = model(torch.from_numpy(GOLDEN['input32'] / 32).double())[-1]
    weight, bias = (torch.from_numpy(arrays[f'head.{name}']).double() for name in ('weight', 'bias'))
    logits = F.linear(last.mean((2, 3)), weight.t(), bias)
    for i, (stage, stride) in enumerate(zip(stages, STRIDES)):
        shown = stage[:, :, stride > 1 :: stride, ::stride]
        assert relative_error(shown, GOLDEN[f'stage{i}']) <= 1e-6, f'stage {i}'
    assert relative_error(logits, GOLDEN['logits']) <= 1e-6


@pytest.mark.parametrize('backend', ['reference', 'gather'])
def test_numbers_with_conv_embedding(tmp_path, backend):
    """The released code's numbers, through a file as Paddle writes it."""
    golden = np.load(DATA / 'conv_embed_256.npz', allow_pickle=False)
    state = {key.removeprefix('state_dict/'): golden[key] for key in golden.files if key.startswith('state_dict/')}
    state = {name: value.T.copy() if LINEAR.search(name) else value for name, value in state.items()}
    (tmp_path / 'conv.pdparams').write_bytes(pickle.dumps(state, 4))
    config = json.loads(str(golden['config']))
    arch = dict(embed_dims=config['embed_dim'], depths=config['depths'], num_heads=config['heads'])
    options = dict(arch=arch, expand_sizes=(3, 3, 3, 3), layer_scale=config['layerscale_value'], pre_norm=True)
    model = build(tmp_path / 'conv.pdparams', conv_embed=True, attention_backend=backend, **options).double()
    with torch.no_grad():
        last = model(torch.from_numpy(golden['input']).double())[-1]
    head = load_checkpoint(tmp_path / 'conv.pdparams')
    logits = F.linear(last.mean((2, 3)), head['head.weight'].t().double(), head['head.bias'].double())
    assert relative_error(logits, golden['logits']) <= 1e-6

    with pytest.raises(CheckpointError, match='the file has conv_embed=True, the model conv_embed=False: set conv_e'):
        build(tmp_path / 'conv.pdparams', **options)


def test_conv_embedding_in_the_model_alone(plain):
    with pytest.raises(CheckpointError, match='the file has conv_embed=False, the model conv_embed=True: set conv_e'):
        build(plain, conv_embed=True)


class Pair:
    """Pickles as what Paddle writes in training checkpoints: `tuple` called on (internal name, array)."""

    def __init__(self, array):
        self.array = array

    def __reduce__(self):
        return tuple, (('linear_0.w_0', self.array),)


def formats(arrays):
    """The same weights as other versions of Paddle, NumPy and Python write them."""
    plain = {name: value for name, value in arrays.items() if hasattr(value, 'dtype')}
    for protocol in (2, 3, 4):
        yield f'protocol {protocol}', pickle.dumps(arrays, protocol)
    numpy1 = pickle.dumps(plain, 2).replace(b'cnumpy._core.multiarray\n', b'cnumpy.core.multiarray\n')
    yield 'NumPy 1', numpy1
    yield 'NumPy 1.19', numpy1.replace(b'\x89\x88\x87', b'K\x00K\x01\x87')  # dtype('f4', 0, 1)
    fortran = {name: np.asfortranarray(value) for name, value in plain.items()}
    yield 'Fortran order', pickle.dumps(fortran, 4)
    yield 'no buffers', pickle.dumps({k: v for k, v in plain.items() if v.dtype == np.float32}, 4)
    table = 'relative_position_bias_table'
    turned = {name: value.T.copy() if name.endswith(table) else value for name, value in plain.items()}
    yield 'tables by heads', pickle.dumps(turned, 4)
    spoilt = {name: value if value.dtype == np.float32 else value * 0 - 7 for name, value in plain.items()}
    pairs = [
        OrderedDict((name, Pair(value * factor)) for name, value in spoilt.items()) for factor in (0, 1)
    ]  # the trained model, and its moving average with spoilt buffers
    training = dict(model=pairs[0], model_ema=pairs[1], epoch=299)
    training['optimizer'] = OrderedDict(LR_Scheduler=dict(last_epoch=3, last_lr=0.5))
    yield 'training', pickle.dumps(training, 4)


FORMATS = (
    'protocol 2',
    'protocol 3',
    'protocol 4',
    'NumPy 1',
    'NumPy 1.19',
    'Fortran order',
    'no buffers',
    'tables by heads',
    'training',
)


@pytest.mark.parametrize('form', FORMATS)
def test_every_form_of_a_file(tmp_path, plain, arrays, form):
    (tmp_path / 'x.pdparams').write_bytes(dict(formats(arrays))[form])
    torch.testing.assert_close(
        build(tmp_path / 'x.pdparams').state_dict(), build(plain).state_dict(), rtol=0, atol=0, msg=form
    )


def test_upernets_file(tmp_path, plain, arrays):
    """PaddleViT's segmentor has the backbone under `encoder.`, with a norm per output and a fourth neighbour table."""
    state = {f'encoder.{name}': value for name, value in arrays.items() if name.startswith(('layers', 'patch'))}
    tables = 'encoder.layers.{}.blocks.0.attn.relative_position_bias_table_to_neighbors'
    state[tables.format(3)] = np.repeat(state[tables.format(2)], 2, axis=1)
    for i in range(4):
        state[f'encoder.layer_norms.{i}.weight'] = np.full(16 * 2**i, i + 0.5, np.float32)
        state[f'encoder.layer_norms.{i}.bias'] = np.zeros(16 * 2**i, np.float32)
    state['decode_head.conv_seg.weight'] = np.zeros((150, 512, 1, 1), np.float32)
    (tmp_path / 'upernet.pdparams').write_bytes(pickle.dumps(state, 4))
    model = build(tmp_path / 'upernet.pdparams', expand_sizes=(3, 3, 3, 3))
    assert [getattr(model, f'norm{i}').weight[0].item() for i in range(4)] == [0.5, 1.5, 2.5, 3.5]
    rings = [model.stages[i].blocks[0].attn.ring_bias_table for i in (2, 3)]
    assert torch.equal(rings[0], rings[1][::2])


@pytest.mark.parametrize('name, option', [('attn.qkv.bias', 'qkv_bias=False'), ('pool_layers', "focal_pool='mean'")])
def test_models_without_a_part(tmp_path, arrays, name, option):
    state = {key: value for key, value in arrays.items() if name not in key and hasattr(value, 'dtype')}
    (tmp_path / 'x.pdparams').write_bytes(pickle.dumps(state, 4))
    with pytest.raises(CheckpointError, match=f'it lacks stages.0.blocks.0.attn.*; set {option}$'):
        build(tmp_path / 'x.pdparams')
    build(tmp_path / 'x.pdparams', **{option.split('=')[0]: 'mean' if 'mean' in option else False})


@pytest.mark.parametrize('name, conv_embed', [('focal_tiny', False), ('focal_tiny_conv', True)])
def test_published_names_and_shapes(name, conv_embed):
    state = {}
    for line in (PADDLE / f'{name}.tsv').read_text().splitlines()[1:]:
        key, shape, dtype, _ = line.split('\t')
        state[key] = torch.empty([int(side) for side in re.findall(r'\d+', shape)], dtype=getattr(torch, dtype))
    loaded = backbone_weights(state, name)
    with torch.device('meta'):
        model = FocalTransformer(arch='tiny', conv_embed=conv_embed, expand_sizes=(3, 3, 3, 0), out_indices=(3,))
    assert {key: value.shape for key, value in loaded.state_dict.items()} == {
        key: value.shape for key, value in model.state_dict().items()
    }
    assert 'Paddle' in loaded.kind and sum(value.is_floating_point() for value in state.values()) == 2 + len(
        loaded.state_dict
    )


def test_square_layers_are_transposed():
    """A check of shapes cannot notice `proj`, nor a table of as many heads as rows."""
    square = torch.arange(9.0).view(3, 3)
    name = 'layers.0.blocks.0.attn.proj.weight'
    assert torch.equal(convert_paddle_layout({name: square})[name], square.t())


HARMLESS = {'nan.pdparams'}
EVIL = sorted(path.name for path in (PADDLE / 'evil').iterdir())
READ = """
import resource, sys
from mmfocal.errors import CheckpointError
from mmfocal.memory import peak_resident_memory
from mmfocal.weights import load_checkpoint
before = peak_resident_memory()
for path in sys.argv[1:]:
    try:
        load_checkpoint(path)
        print(path, 'read')
    except CheckpointError as error:
        print(error)
    used = peak_resident_memory() - before
    assert used < 100 * 2**20, f'{path}: {used} bytes'
"""


def test_hostile_files_do_nothing_and_take_no_memory(tmp_path, plain):
    head = b'\x80\x02}X\x01\x00\x00\x00a'
    made = {
        'deep_tuples': head + b')' + b'\x85' * 200_000 + b's.',
        'dtype_from_string': head + b'cnumpy\ndtype\nX\x60\xea\x00\x00' + b'f4,' * 20_000 + b'\x89\x88\x87Rs.',
        'truncated': plain.read_bytes()[:100_000],
        'many_dicts': head + b'}' * 5_000_000 + b's.',
        'many_names': many_names(),
    }
    for name, content in made.items():
        (tmp_path / f'{name}.pdparams').write_bytes(content)
    paths = [*(PADDLE / 'evil' / name for name in EVIL), *(tmp_path / f'{name}.pdparams' for name in made)]
    work = tmp_path / 'work'
    work.mkdir()
    done = subprocess.run(
        [sys.executable, '-c', READ, *map(str, paths)],
        cwd=work,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(DATA.parents[1]), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not list(work.iterdir()), 'a file ran code'
    lines = done.stdout.splitlines()
    assert len(lines) == len(paths)
    for path, line in zip(paths, lines):
        assert line.startswith(str(path))
        if path.name in HARMLESS:
            assert line.endswith(' read')
        else:
            assert re.search(r': (truncated or not a checkpoint|it asks for|this is) ?.*; ', line) and len(line) < 400


def many_names():
    """One array of 100 kB under 1000 names."""
    array = np.zeros(25_000, np.float32)
    return pickle.dumps({f'a{i}': array for i in range(1000)}, 4)


def test_hostile_files_are_hostile(tmp_path, monkeypatch):
    """The control: Python's own unpickler runs what they hold."""
    monkeypatch.chdir(tmp_path)
    with open(PADDLE / 'evil/exec_then_pop.pdparams', 'rb') as file:
        pickle.load(file)
    assert (tmp_path / 'PWNED').exists()


def test_nan_is_reported(tmp_path, plain, arrays, monkeypatch):
    state = dict(arrays, **{'norm.bias': np.full_like(arrays['norm.bias'], np.nan)})
    (tmp_path / 'nan.pdparams').write_bytes(pickle.dumps(state, 4))
    lines = []
    monkeypatch.setattr('mmfocal.weights.backbone.print_log', lambda line, *_, **__: lines.append(line))
    build(tmp_path / 'nan.pdparams')
    assert '  WARNING: NaN or infinite values in the file: norm3' in lines


@pytest.mark.parametrize('content', [{'backbone.conv1.conv.weight': 0}, {'head.weight': 0}], ids=['detector', 'other'])
def test_other_models(tmp_path, content):
    state = {name: np.zeros((2, 2), np.float32) for name in content}
    (tmp_path / 'x.pdparams').write_bytes(pickle.dumps(state, 4))
    with pytest.raises(CheckpointError, match=r'x.pdparams: it holds no Focal or Swin Transformer .*; use') as error:
        build(tmp_path / 'x.pdparams')
    assert '\n' not in str(error.value)
