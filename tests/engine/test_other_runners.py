"""Our configs under MMEngine's runner and MMDetection's tools/train.py, which build what a config says."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.registry import RUNNERS, init_default_scope
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings

from mmfocal.engine import FocalRunner
from mmfocal.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / 'configs'
QUICK = {
    'model.backbone.arch.depths': (1, 1, 1, 1),
    'train_cfg.max_epochs': 1,
    'train_cfg.val_interval': 1,
    'param_scheduler': [],
    **{
        f'{split}_dataloader.{name}': value
        for split in ('train', 'val', 'test')
        for name, value in (('num_workers', 0), ('persistent_workers', False))
    },
}


@pytest.fixture
def cfg(shapes, tmp_path, monkeypatch):
    """As MMDetection's tools/train.py reads it."""
    monkeypatch.setenv('SHAPES_ROOT', str(shapes))
    cfg = Config.fromfile(CONFIGS / 'atss_focal_nano_shapes.py')
    cfg.merge_from_dict(QUICK)
    cfg.work_dir = str(tmp_path)
    cfg.experiment_name = str(tmp_path)
    import_modules_from_strings(**cfg.custom_imports)
    init_default_scope('mmdet')
    return cfg


@pytest.mark.parametrize('config', sorted(path.stem for path in CONFIGS.glob('*.py')))
def test_configs_name_the_runner(config, monkeypatch):
    for variable in ('FOCAL_TINY', 'FOCAL_SMALL', 'FOCAL_BASE', 'FOCAL_LARGE'):
        monkeypatch.setenv(variable, 'none')
    cfg = Config.fromfile(CONFIGS / f'{config}.py', import_custom_modules=False)
    assert cfg.runner_type == 'FocalRunner' and 'Resumable' in cfg.train_cfg.type


@pytest.mark.slow
def test_mmdetections_tool_builds_the_runner_of_the_config(cfg, tmp_path):
    """`RUNNERS.build(cfg)`, since the config has `runner_type`."""
    assert 'runner_type' in cfg
    runner = RUNNERS.build(cfg)
    assert isinstance(runner, FocalRunner)
    runner.train()
    assert (tmp_path / 'epoch_1.pth').is_file()


def test_the_loop_says_before_training_which_runner_it_needs(cfg, tmp_path):
    with pytest.raises(ConfigError, match="ResumableEpochLoop needs mmfocal's runner, not Runner: set runner_type="):
        Runner.from_cfg(cfg).train()
    assert not list(tmp_path.glob('*.pth'))


def test_the_hook_says_before_training_which_runner_it_needs(cfg, tmp_path):
    cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1, val_interval=1)
    with pytest.raises(ConfigError, match="SafeCheckpointHook needs mmfocal's runner, not Runner"):
        Runner.from_cfg(cfg).train()
    assert not list(tmp_path.glob('*.pth'))


@pytest.mark.slow
def test_mmengines_own_loop_and_hook_train_with_the_other_guards(cfg, tmp_path):
    cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1, val_interval=1)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert (tmp_path / 'epoch_1.pth').is_file()
    assert [type(hook) for hook in runner.hooks if isinstance(hook, CheckpointHook)] == [CheckpointHook]


@pytest.mark.slow
def test_testing_needs_no_special_runner(cfg, tmp_path):
    assert 'coco/bbox_mAP' in Runner.from_cfg(cfg).test()
