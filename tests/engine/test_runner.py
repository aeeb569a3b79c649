"""What FocalRunner changes in MMEngine's runner, in one process."""

from pathlib import Path

import pytest
import torch
from mmengine.model import BaseModel
from torch import nn

from mmfocal.engine import FocalRunner, SafeCheckpointHook, read_config
from mmfocal.engine.fsdp import shard_model
from mmfocal.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / 'configs'


class Linear(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, inputs, mode):
        return dict(loss=self.layer(inputs).square().mean())


@pytest.mark.parametrize('accumulated, rate', [(1, 0.2), (4, 0.8)])
def test_auto_scale_lr_counts_accumulation(tmp_path, accumulated, rate):
    """0.8 for 16 images; here 4 an iteration."""
    data = torch.utils.data.DataLoader([dict(inputs=torch.ones(2))] * 8, batch_size=4)
    runner = FocalRunner(
        Linear(),
        tmp_path,
        train_dataloader=data,
        train_cfg=dict(by_epoch=True, max_epochs=2),
        experiment_name=f'accumulated {accumulated}',
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.8), accumulative_counts=accumulated),
        auto_scale_lr=dict(enable=True, base_batch_size=16),
        default_hooks=dict(checkpoint=None),
    )
    runner.train()
    assert runner.optim_wrapper.param_groups[0]['lr'] == pytest.approx(rate)


def test_the_log_says_which_operators_of_mmcv_run(tmp_path):
    FocalRunner(Linear(), tmp_path, experiment_name='operators')
    (log,) = tmp_path.glob('*/*.log')
    assert log.read_text().count('MMCV operators: ') == 1


@pytest.mark.parametrize('variable, threads', [(None, 1), ('2', 2)])
def test_threads_of_the_config(tmp_path, monkeypatch, variable, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    if variable:
        monkeypatch.setenv('OMP_NUM_THREADS', variable)
    try:
        FocalRunner(Linear(), tmp_path, env_cfg=dict(cpu_threads=1), experiment_name=f'threads {variable}')
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_units_that_the_model_has_not():
    with pytest.raises(ConfigError, match=r"fsdp_units=\['Linear', 'Block'\]: the model has no Block; name classes"):
        shard_model(Linear(), ['Linear', 'Block'])
    with pytest.raises(ConfigError, match='the model has no unit'):
        shard_model(Linear(), [])


def test_the_fsdp_base_goes_with_any_config(tmp_path, monkeypatch):
    monkeypatch.setenv('FOCAL_LARGE', 'none')
    config = tmp_path / 'large_fsdp.py'
    config.write_text(f"_base_ = ['{CONFIGS}/atss_dyhead_focal_large_3x.py', '{CONFIGS}/_base_/runtime/fsdp.py']")
    cfg = read_config(config)
    assert cfg.fsdp_units == ['FocalBlock'] and cfg.model.backbone.arch == 'large'


@pytest.mark.parametrize(
    'config', ['atss_focal_nano_shapes', 'mask2former_panoptic_r50_50e', 'upernet_focal_nano_shapes']
)
def test_guards_have_names(config):
    cfg = read_config(CONFIGS / f'{config}.py', {'default_hooks.divergence.skip': 5})
    hooks = cfg.default_hooks
    assert hooks.divergence == dict(type='DivergenceHook', skip=5)
    assert hooks.bad_data.type == 'BadDataHook' and hooks.host_memory.type == 'HostMemoryHook'
    assert hooks.check_classes.type.startswith('Check') and 'custom_hooks' not in cfg


def test_a_guard_is_switched_off_by_its_name(tmp_path):
    hooks = dict(divergence=dict(type='DivergenceHook', skip=5), bad_data=None, logger=None, checkpoint=None)
    runner = FocalRunner(Linear(), tmp_path, default_hooks=hooks)
    names = [type(hook).__name__ for hook in runner.hooks]
    assert 'DivergenceHook' in names and not {'BadDataHook', 'LoggerHook', 'CheckpointHook'} & set(names)


@pytest.mark.parametrize('units', ['Block', ['Block'], ('Block',), nn.Conv3d, [nn.Conv3d]])
def test_units_are_names_or_classes_alone_or_in_a_list(units):
    name = 'Block' if 'Block' in str(units) else 'Conv3d'
    with pytest.raises(ConfigError, match=rf"fsdp_units=\['{name}'\]: the model has no {name}; name classes"):
        shard_model(Linear(), units)


@pytest.mark.parametrize(
    'hook',
    [
        dict(type='SafeCheckpointHook', save_best=('mIoU', 'mAcc'), rule=('greater', 'greater')),
        dict(type=SafeCheckpointHook, save_best=['mIoU']),
        dict(type='SafeCheckpointHook', save_best='mIoU', resume_interval=-1),
    ],
)
def test_spellings_of_a_hooks_settings(hook, tmp_path):
    runner = FocalRunner(Linear(), tmp_path, default_hooks=dict(checkpoint=hook))
    (found,) = [hook for hook in runner.hooks if isinstance(hook, SafeCheckpointHook)]
    assert found.save_best == (['mIoU', 'mAcc'] if isinstance(hook['save_best'], tuple) else ['mIoU'])


@pytest.mark.parametrize(
    'hook, message',
    [
        (dict(type='SafeCheckpointHook', interval='1'), "interval='1' must be an integer"),
        (dict(type='SafeCheckpointHook', resume_interval=0.5), 'resume_interval=0.5 must be an integer'),
        (dict(type='BadDataHook', interval=0), 'BadDataHook: interval=0 must be an integer from 1'),
    ],
)
def test_settings_of_hooks_that_cannot_work(hook, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        FocalRunner(Linear(), tmp_path, custom_hooks=[hook])
