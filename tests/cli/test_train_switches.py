"""What the switches of `mmfocal train` make of a config, and a training with them."""

import pytest
import torch
from mmengine.registry import RUNNERS

from mmfocal import cli
from mmfocal.errors import ConfigError
from mmfocal.weights import load_checkpoint

FAST = [
    *('--cfg-options', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1'),
    *(f'{loader}_dataloader.num_workers=0' for loader in ('train', 'val')),
    *(f'{loader}_dataloader.persistent_workers=False' for loader in ('train', 'val')),
]


@pytest.fixture
def config_of(shapes, tmp_path, monkeypatch):
    """The config that a command line would train with."""
    monkeypatch.setenv('SHAPES_ROOT', str(shapes))
    monkeypatch.chdir(tmp_path)

    def config_of(*words):
        class Built:
            def train(self):
                pass

        seen = []
        monkeypatch.setattr(RUNNERS, 'build', lambda cfg: seen.append(cfg) or Built())
        args = cli.parse_args(['train', 'atss_focal_nano_shapes', *words])
        args.main(args)
        return seen[0]

    return config_of


def test_each_switch(config_of):
    assert not config_of().get('custom_hooks')
    cfg = config_of('--ema', '--early-stop', '3', '--batch-size', '8')
    ema, early = cfg.custom_hooks
    assert (ema.type, ema.ema_type, ema.momentum, ema.update_buffers) == ('EMAHook', 'MomentumAnnealingEMA', 2e-4, True)
    assert (early.type, early.monitor, early.rule, early.patience) == (
        *('ResumableEarlyStoppingHook', 'coco/bbox_mAP', 'greater'),
        3,
    )
    assert cfg.train_dataloader.batch_size == 8 and not cfg.auto_scale_lr.get('enable')
    assert config_of('--ema', '0.01').custom_hooks[0].momentum == 0.01
    cfg = config_of('--batch-size', 'auto')
    assert cfg.train_dataloader.batch_size == 'auto' and cfg.auto_scale_lr.enable


@pytest.mark.parametrize(
    'words, message',
    [
        (['--ema', '0.9'], 'at most 0.5'),
        (['--ema', '0'], 'at most 0.5'),
        (['--ema', '--cfg-options', 'fsdp_units=FocalBlock'], 'does not work with fsdp_units'),
        (['--early-stop', '0'], 'positive number of validations'),
        (['--early-stop', '2', '--cfg-options', 'default_hooks.checkpoint.save_best=auto'], 'save_best'),
        (['--early-stop', '2', '--cfg-options', 'val_cfg=None'], 'save_best'),
        (['--batch-size', 'auto', '--cfg-options', 'auto_scale_lr=dict()'], 'needs auto_scale_lr.base_batch_size'),
        (['--wandb', '--cfg-options', 'visualizer=None'], 'the config has no visualizer'),
    ],
)
def test_switches_that_cannot_work(config_of, words, message):
    with pytest.raises(ConfigError, match=message):
        config_of(*words)


@pytest.mark.parametrize('value', ['0', '-1', 'many', '1.5'])
def test_batch_sizes_that_are_none(value, capsys):
    with pytest.raises(SystemExit):
        cli.parse_args(['train', 'atss_focal_nano_shapes', '--batch-size', value])
    assert "neither a positive number nor 'auto'" in capsys.readouterr().err


@pytest.mark.parametrize('package', ['wandb', 'mlflow'])
def test_a_tracker_that_is_not_installed(config_of, package, monkeypatch):
    from mmfocal.engine import command_line

    find = command_line.find_spec
    monkeypatch.setattr(command_line, 'find_spec', lambda name: None if name == package else find(name))
    with pytest.raises(ConfigError, match=rf"--{package}: not installed; pip install 'mmfocal\[{package}\]'"):
        config_of(f'--{package}')


@pytest.mark.slow
def test_averages_are_what_is_saved_and_tested(shapes, tmp_path, monkeypatch):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes))
    monkeypatch.chdir(tmp_path)
    args = cli.parse_args(
        ['train', 'atss_focal_nano_shapes', '--ema', '0.1', '--early-stop', '1', '--batch-size', '4', *FAST]
    )
    args.main(args)
    checkpoint = load_checkpoint(next(tmp_path.rglob('epoch_1.pth')))
    name = 'backbone.norm3.weight'
    assert not torch.equal(checkpoint['state_dict'][name], checkpoint['ema_state_dict'][f'module.{name}'])
    resumed = load_checkpoint(next(tmp_path.rglob('resume.pth')))  # after the validation
    assert checkpoint['early_stopping']['wait_count'] == 0 and resumed['early_stopping']['monitor'] == 'coco/bbox_mAP'
    assert checkpoint['early_stopping']['best_score'] == float('-inf') < resumed['early_stopping']['best_score']
