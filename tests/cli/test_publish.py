"""`mmfocal publish`."""

import copy
import hashlib
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.hooks import EMAHook
from torch.hub import HASH_REGEX

from mmfocal.cli import main
from mmfocal.weights import load_checkpoint


def publish(monkeypatch, *args):
    monkeypatch.setattr(sys, 'argv', ['mmfocal', 'publish', *map(str, args)])
    main()


def training_checkpoint(layer):
    meta = dict(
        dataset_meta=dict(classes=('a', 'b'), palette=np.arange(6, dtype=np.uint8).reshape(2, 3)), epoch=3, cfg='x = 1'
    )
    return dict(state_dict=layer.state_dict(), meta=meta, optimizer=dict(state={}), message_hub={}, param_schedulers=[])


@pytest.mark.parametrize('name', ['out/best', 'out/best.pth', 'out/best.safetensors'])
def test_weights_and_classes_stay(tmp_path, monkeypatch, capsys, name):
    layer = torch.nn.Linear(3, 2)
    torch.save(training_checkpoint(layer), tmp_path / 'epoch_3.pth')
    publish(monkeypatch, tmp_path / 'epoch_3.pth', tmp_path / name)
    (file,) = (tmp_path / 'out').iterdir()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    suffix = '.safetensors' if name.endswith('s') else '.pth'
    assert file.name == f'best-{digest[:8]}{suffix}' and HASH_REGEX.search(file.name)[1] == digest[:8]
    assert capsys.readouterr().out.startswith(f'{file}: 2 tensors, 0.0 MiB')
    content = load_checkpoint(file) if suffix == '.safetensors' else torch.load(file, weights_only=True)
    assert set(content) == {'state_dict', 'meta'}
    assert set(content['meta']) - {'format'} == {'cfg', 'dataset_meta', 'source'}
    assert content['meta']['cfg'] == 'x = 1'
    assert content['meta']['source'] == 'epoch_3.pth' and list(content['meta']['dataset_meta']['classes']) == ['a', 'b']
    assert content['meta']['dataset_meta']['palette'] == [[0, 1, 2], [3, 4, 5]]
    torch.testing.assert_close(dict(content['state_dict']), dict(layer.state_dict()), rtol=0, atol=0)


def test_moving_averages_are_published(tmp_path, monkeypatch, capsys):
    """`EMAHook` saves the averages under `state_dict` and the last iteration's weights under `ema_state_dict`."""
    layer, hook = torch.nn.Linear(3, 2), EMAHook(momentum=0.5)
    runner = SimpleNamespace(model=layer, iter=0, epoch=0, max_iters=9, max_epochs=9)
    hook.before_run(runner)
    with torch.no_grad():
        layer.weight.add_(1.0)
        hook.after_train_iter(runner, 0)
        layer.weight.add_(1.0)
        hook.after_train_iter(runner, 1)
    averages = copy.deepcopy(hook.ema_model.module.state_dict())
    assert not torch.equal(averages['weight'], layer.weight)
    checkpoint = training_checkpoint(layer)
    hook.before_save_checkpoint(runner, checkpoint)
    torch.save(checkpoint, tmp_path / 'a.pth')
    publish(monkeypatch, tmp_path / 'a.pth', tmp_path / 'b')
    (file,) = tmp_path.glob('b-*.pth')
    content = torch.load(file, weights_only=True)
    assert set(content['state_dict']) == {'weight', 'bias'} and 'ema_state_dict' not in content
    assert torch.equal(content['state_dict']['weight'], averages['weight'])
    assert '2 tensors (moving averages)' in capsys.readouterr().out


def test_the_same_file_has_the_same_name_and_is_not_overwritten(tmp_path, monkeypatch, capsys):
    torch.save(training_checkpoint(torch.nn.Linear(3, 2)), tmp_path / 'a.pth')
    publish(monkeypatch, tmp_path / 'a.pth', tmp_path / 'b')
    with pytest.raises(SystemExit):
        publish(monkeypatch, tmp_path / 'a.pth', tmp_path / 'b')
    assert re.fullmatch(r'error: .*b-[0-9a-f]{8}\.pth: the file exists already; .*\n', capsys.readouterr().err)


@pytest.mark.parametrize(
    'src, dst, sentence',
    [
        ('a.pth', 'b.bin', 'let it end with .pth or .safetensors'),
        ('absent.pth', 'b', 'there is no such checkpoint file'),
        ('list.pth', 'b', 'no state dict'),
        ('text.pth', 'b', 'text.pth'),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, capsys, src, dst, sentence):
    torch.save(training_checkpoint(torch.nn.Linear(3, 2)), tmp_path / 'a.pth')
    torch.save([1, 2], tmp_path / 'list.pth')
    (tmp_path / 'text.pth').write_text('no checkpoint')
    before = set(tmp_path.iterdir())
    with pytest.raises(SystemExit):
        publish(monkeypatch, tmp_path / src, tmp_path / dst)
    error = capsys.readouterr().err
    assert error.startswith('error: ') and error.count('\n') == 1 and sentence in error
    assert set(tmp_path.iterdir()) == before
