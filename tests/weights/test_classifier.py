"""Released checkpoints, PyTorch's and Paddle's, as classifiers: head included, with the released logits."""

import json
import lzma
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

import mmfocal.registration  # noqa: F401  registers what configs name
from mmfocal.cli import parse_args
from mmfocal.engine import FocalRunner
from mmfocal.errors import CheckpointError, ConfigError
from mmfocal.inference import load_model
from mmfocal.models import FocalTransformer
from mmfocal.weights import load_checkpoint

DATA = Path(__file__).parents[1] / 'data'
RELEASED = np.load(DATA / 'classification_224.npz', allow_pickle=False)
PADDLE = np.load(DATA / 'paddle/plain.npz', allow_pickle=False)


def config(golden, num_classes=None):
    """A classifier of the golden file's size; by default it has as many classes."""
    settings = json.loads(str(golden['config']))
    arch = dict(
        embed_dims=settings['embed_dim'],
        depths=settings['depths'],
        num_heads=settings.get('heads') or settings['num_heads'],
    )
    backbone = dict(type='FocalTransformer', arch=arch, expand_sizes=(3, 3, 3, 0), border='wrap', out_indices=(3,))
    head = dict(
        type='LinearClsHead', in_channels=8 * arch['embed_dims'], num_classes=num_classes or golden['logits'].shape[1]
    )
    return Config(
        dict(
            default_scope='mmpretrain',
            model=dict(
                type='ImageClassifier', backbone=backbone, neck=dict(type='GlobalAveragePooling'), head=head,
            ),
        )
    )  # fmt: skip


@pytest.fixture(scope='module')
def released(tmp_path_factory):
    path = tmp_path_factory.mktemp('released') / 'focal.pth'
    state_dict = {
        key.removeprefix('state_dict/'): torch.from_numpy(RELEASED[key])
        for key in RELEASED.files
        if key.startswith('state_dict/')
    }
    state_dict['layers.0.blocks.0.attn.relative_position_index'] = torch.zeros(49, 49, dtype=torch.long)
    torch.save(dict(model=state_dict, epoch=299), path)
    return path


@pytest.fixture(scope='module')
def paddle(tmp_path_factory):
    path = tmp_path_factory.mktemp('paddle') / 'focal.pdparams'
    path.write_bytes(lzma.decompress((DATA / 'paddle/plain.pdparams.xz').read_bytes()))
    return path


def relative_error(found, expected):
    expected = torch.as_tensor(expected).double()
    return (torch.linalg.vector_norm(found.double() - expected) / torch.linalg.vector_norm(expected)).item()


def images_of(golden):
    if 'input32' in golden.files:
        return torch.from_numpy(golden['input32'] / 32).double()
    return torch.from_numpy(golden['input']).double()


def run(*arguments):
    args = parse_args(list(map(str, arguments)))
    args.main(args)


def check_logits(path, golden):
    """The golden numbers are float64, stored as float32: rounding alone is 3e-8."""
    model, _ = load_model(path, config(golden), 'cpu')
    with torch.no_grad():
        assert relative_error(model.double()(images_of(golden)), golden['logits']) <= 1e-6


def test_released_logits(released):
    check_logits(released, RELEASED)


def test_paddle_logits(paddle):
    check_logits(paddle, PADDLE)


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_converted_with_its_head(released, paddle, tmp_path, suffix, capsys):
    for path, golden, ignored in ((released, RELEASED, 1), (paddle, PADDLE, None)):
        out = tmp_path / f'{path.stem}_{path.suffix[1:]}{suffix}'
        run('convert', 'released', path, out, '--with-head')
        classes = golden['logits'].shape[1]
        printed = capsys.readouterr().out
        assert f'head of {classes} classes kept' in printed
        assert ignored is None or f'left out: {ignored} (' in printed
        check_logits(out, golden)
        backbone = FocalTransformer(
            arch=config(golden).model.backbone.arch, init_cfg=dict(type='Pretrained', checkpoint=str(out))
        )
        backbone.init_weights()  # it serves a detector too
        name = 'stages.0.blocks.0.attn.qkv.weight'
        assert torch.equal(backbone.state_dict()[name], load_checkpoint(out)['state_dict'][f'backbone.{name}'])


def build_runner(cfg, path, tmp_path, **options):
    cfg = Config(cfg.to_dict())
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint='none')
    return FocalRunner(
        cfg.model, str(tmp_path / 'work'), default_scope='mmpretrain', load_from=str(path), log_level='ERROR',
        experiment_name=tmp_path.name, **options,
    )  # fmt: skip


@pytest.mark.parametrize('kind', ['released', 'paddle'])
def test_the_runner_of_test_loads_them(kind, request, tmp_path):
    """What `mmfocal test` does before the first image."""
    path, golden = request.getfixturevalue(kind), RELEASED if kind == 'released' else PADDLE
    runner = build_runner(config(golden), path, tmp_path)
    runner.load_checkpoint(str(path))
    with torch.no_grad():
        assert relative_error(runner.model.double().eval()(images_of(golden)), golden['logits']) <= 1e-6


def test_a_head_of_other_classes_or_none_is_refused(released, tmp_path):
    message = 'its head has {} classes, the model 7; set model.head.num_classes and the data set'
    message = message.format(RELEASED['logits'].shape[1])
    with pytest.raises(CheckpointError, match=message):
        load_model(released, config(RELEASED, 7), 'cpu')
    runner = build_runner(config(RELEASED, 7), released, tmp_path)
    with pytest.raises(CheckpointError, match=message):
        runner.load_checkpoint(str(released))
    run('convert', 'released', released, tmp_path / 'backbone.pth')
    with pytest.raises(
        CheckpointError, match='backbone.pth: it has no classification head; use a checkpoint of a clas'
    ):
        load_model(tmp_path / 'backbone.pth', config(RELEASED), 'cpu')
    with pytest.raises(CheckpointError, match='backbone.pth: it has no classification head; leave --with-head out'):
        run('convert', 'released', tmp_path / 'backbone.pth', tmp_path / 'again.pth', '--with-head')
    with pytest.raises(CheckpointError, match='it holds no Focal or Swin Transformer'):
        torch.save(dict(state_dict=dict(a=torch.zeros(1))), tmp_path / 'other.pth')
        load_model(tmp_path / 'other.pth', config(RELEASED), 'cpu')
    with pytest.raises(ConfigError, match='the file exists already'):
        run('convert', 'released', released, tmp_path / 'backbone.pth', '--with-head')
