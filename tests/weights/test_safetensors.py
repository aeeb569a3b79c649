"""safetensors beside `.pth`: read wherever a checkpoint is, written by `mmfocal convert`."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint as mmengine_load_checkpoint

from mmfocal.cli import main
from mmfocal.errors import CheckpointError
from mmfocal.models import FocalTransformer
from mmfocal.weights import load_checkpoint, register_safe_loaders
from mmfocal.weights.safetensors_file import encode_safetensors

CONFIG = Path(__file__).parents[2] / 'configs/atss_focal_nano_shapes.py'
ARCH = dict(embed_dims=8, depths=(1, 1, 2, 1), num_heads=(1, 1, 2, 2))


@pytest.fixture
def backbone():
    return FocalTransformer(arch=ARCH).eval()


def convert(monkeypatch, *args):
    monkeypatch.setattr(sys, 'argv', ['mmfocal', 'convert', *map(str, args)])
    main()


def test_a_backbone_there_and_back(tmp_path, backbone, monkeypatch):
    torch.save(backbone.state_dict(), tmp_path / 'a.pth')
    convert(monkeypatch, 'released', tmp_path / 'a.pth', tmp_path / 'b.safetensors')
    again = FocalTransformer(arch=ARCH, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'b.safetensors')))
    again.init_weights()
    torch.testing.assert_close(again.state_dict(), backbone.state_dict(), rtol=0, atol=0)
    with safetensors.safe_open(tmp_path / 'b.safetensors', framework='pt') as file:
        metadata = file.metadata()
    assert metadata['architecture'] == (
        'FocalTransformer: embed_dims=8, depths=(1, 1, 2, 1), num_heads=(1, 1, 2, 2), window_size=7, conv_embed=False'
    )
    assert metadata['source'] == str(tmp_path / 'a.pth') and 'an mmfocal checkpoint' in metadata['conversion']

    convert(monkeypatch, 'format', tmp_path / 'b.safetensors', tmp_path / 'c.pth')
    loaded = load_checkpoint(tmp_path / 'c.pth')
    torch.testing.assert_close(loaded['state_dict'], dict(backbone.state_dict()), rtol=0, atol=0)
    assert {key: metadata[key] for key in loaded['meta']} == loaded['meta']


def test_a_detectors_checkpoint_keeps_its_classes(tmp_path, monkeypatch):
    palette = np.arange(6, dtype=np.uint8).reshape(2, 3)
    meta = dict(dataset_meta=dict(classes=('a', 'b'), palette=palette), epoch=3)
    torch.save(
        dict(state_dict={'bbox_head.weight': torch.ones(2)}, meta=meta, optimizer=dict(state={})), tmp_path / 'a.pth'
    )
    convert(monkeypatch, 'format', tmp_path / 'a.pth', tmp_path / 'b.safetensors')
    loaded = load_checkpoint(tmp_path / 'b.safetensors')
    assert loaded['meta']['dataset_meta'] == dict(classes=['a', 'b'], palette=palette.tolist())
    assert set(loaded) == {'state_dict', 'meta'}


def test_mmengine_loads_it(tmp_path):
    register_safe_loaders()
    layer, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    (tmp_path / 'x.safetensors').write_bytes(encode_safetensors(layer.state_dict(), {}))
    mmengine_load_checkpoint(other, str(tmp_path / 'x.safetensors'), strict=True)
    assert torch.equal(layer.weight, other.weight)


def test_the_content_tells_the_format(tmp_path):
    """A file in a cache may have another suffix."""
    (tmp_path / 'x.pth').write_bytes(encode_safetensors(dict(a=torch.ones(3)), {}))
    assert load_checkpoint(tmp_path / 'x.pth', map_location='meta')['state_dict']['a'].is_meta


def header(content, length=None):
    data = json.dumps(content).encode()
    return (len(data) if length is None else length).to_bytes(8, 'little') + data


ENTRY = dict(dtype='F32', shape=[4], data_offsets=[0, 16])
DAMAGED = {
    'cut': header(dict(a=ENTRY)) + bytes(7),
    'no header': header({}, 2**40),
    'long header': header({}, 90_000_000),
    'bomb': header(dict(a=dict(ENTRY, shape=[2**40]))) + bytes(16),
    'overlap': header(dict(a=ENTRY, b=dict(ENTRY, shape=[2], data_offsets=[8, 16]))) + bytes(16),
    'no JSON': (9).to_bytes(8, 'little') + b'{"a": [1,' + bytes(9),
    'noise': bytes(range(1, 200)),
}  # fmt: skip


@pytest.mark.parametrize('damage', DAMAGED)
def test_damaged_files(tmp_path, damage):
    (tmp_path / 'x.safetensors').write_bytes(DAMAGED[damage])
    with pytest.raises(CheckpointError, match='x.safetensors: truncated or not safetensors .*; download') as error:
        load_checkpoint(tmp_path / 'x.safetensors')
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('name, sentence', [('a.pth', 'exists already'), ('b.bin', 'end with .pth or .safetensors')])
def test_where_to_write_is_checked_first(tmp_path, backbone, monkeypatch, capsys, name, sentence):
    torch.save(backbone.state_dict(), tmp_path / 'a.pth')
    with pytest.raises(SystemExit):
        convert(monkeypatch, 'format', tmp_path / 'a.pth', tmp_path / name)
    error = capsys.readouterr().err
    assert error.startswith(f'error: {tmp_path / name}: ') and error.count('\n') == 1 and sentence in error


QUICK = [
    'model.backbone.arch.depths=(1,1,1,1)',
    'train_cfg.max_epochs=1',
    'train_dataloader.dataset.indices=4',
    *(
        f'{split}_dataloader.{option}'
        for split in ('train', 'val', 'test')
        for option in ('num_workers=0', 'persistent_workers=False')
    ),
]


def test_train_test_and_resume(tmp_path, shapes, monkeypatch, capfd):
    """A detector's weights are tested and trained on; training cannot be resumed from them."""
    monkeypatch.setenv('SHAPES_ROOT', str(shapes))
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict({QUICK[0].split('=')[0]: (1, 1, 1, 1)})
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model)
    weights = tmp_path / 'detector.safetensors'
    weights.write_bytes(encode_safetensors(model.state_dict(), dict(dataset_meta=dict(classes=cfg.metainfo.classes))))

    def run(command, *args):
        options = ['--work-dir', str(tmp_path / command), '--cfg-options', *QUICK]
        words = [arg for arg in args if not arg.startswith('load_from')]
        extra = [arg for arg in args if arg.startswith('load_from')]
        monkeypatch.setattr(sys, 'argv', ['mmfocal', command, str(CONFIG), *words, *options, *extra])
        try:
            main()
        except SystemExit as stop:
            assert stop.code == 1
        return ''.join(capfd.readouterr())

    assert 'coco/bbox_mAP' in run('test', str(weights))
    assert f'Load checkpoint from {weights}' in run('train', f'load_from={weights}')
    assert (tmp_path / 'train/epoch_1.pth').is_file()
    out = run('train', '--resume', str(weights))
    assert f'error: {weights}: ' in out and 'load_from' in out.splitlines()[-1]
