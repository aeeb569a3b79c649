"""`batch_size='auto'`; the GPU's memory is played by a limit, since tests need none."""

import logging
import random

import numpy as np
import pytest
import torch
from mmengine.registry import RUNNERS

import mmfocal.registration  # noqa: F401
from mmfocal.engine import batch_size, read_config
from mmfocal.errors import ConfigError
from mmfocal.weights import load_checkpoint


@pytest.mark.parametrize('limit', [0, 1, 2, 3, 7, 8, 9, 31, 32, 100])
@pytest.mark.parametrize('most', [1, 5, 32])
def test_the_largest_that_fits(limit, most):
    tried = []

    def fits(number):
        assert number <= most
        tried.append(number)
        return number <= limit

    assert batch_size.largest_that_fits(fits, most) == min(limit, most)
    assert len(set(tried)) == len(tried) <= 12


@pytest.fixture
def build(shapes, tmp_path, monkeypatch):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes))

    def build(**options):
        cfg = read_config('retinanet_focal_nano_shapes')
        for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
            loader.update(num_workers=0, persistent_workers=False)
        cfg.update(
            work_dir=str(tmp_path / 'work'), randomness=dict(seed=0), auto_scale_lr=dict(enable=True, base_batch_size=2)
        )
        cfg.update(val_dataloader=None, val_cfg=None, val_evaluator=None)
        cfg.default_hooks.update(check_metrics=None, checkpoint=dict(type='SafeCheckpointHook', interval=1))
        cfg.train_cfg = dict(by_epoch=True, max_epochs=1)
        cfg.train_dataloader.batch_size = 'auto'
        cfg.merge_from_dict(options)
        return RUNNERS.build(cfg)

    return build


def limit(monkeypatch, number):
    """A GPU that holds so many images; the trial steps run."""

    def fits_gpu(step):
        def fits(images):
            if images <= number:
                step(images)
                assert any(parameter.grad is not None for parameter in step.model.parameters())
            return images <= number

        return fits

    monkeypatch.setattr(batch_size, '_has_gpu', lambda: True)
    monkeypatch.setattr(batch_size, '_fits_gpu', fits_gpu)


@pytest.mark.slow
def test_training_is_that_of_the_number(build, monkeypatch, tmp_path, caplog):
    limit(monkeypatch, 3)
    runner = build(work_dir=str(tmp_path / 'auto'))
    with caplog.at_level(logging.INFO):
        runner.train()
    assert runner.train_dataloader.batch_sampler.batch_size == 3 == runner.cfg.train_dataloader.batch_size
    other = build(**{'train_dataloader.batch_size': 3, 'work_dir': str(tmp_path / 'three')})
    other.train()
    one, two = (load_checkpoint(tmp_path / name / 'epoch_1.pth') for name in ('auto', 'three'))
    for name, value in one['state_dict'].items():
        assert torch.equal(value, two['state_dict'][name]), name
    rates = [checkpoint['optimizer']['param_groups'][0]['initial_lr'] for checkpoint in (one, two)]
    assert rates[0] == rates[1] == pytest.approx(1.5 * runner.cfg.optim_wrapper.optimizer.lr)

    # a resumed training keeps the number, whatever fits now
    limit(monkeypatch, 1)
    again = build(work_dir=str(tmp_path / 'auto'), resume=True, **{'train_cfg.max_epochs': 2})
    again.train()
    assert again.train_dataloader.batch_sampler.batch_size == 3


def test_a_trial_leaves_no_trace(build):
    runner = build()
    weights = {name: value.clone() for name, value in runner.model.state_dict().items()}
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    step = batch_size.TrialStep(runner)
    with batch_size.kept_random_numbers():
        step(2)
        torch.rand(3), random.random(), np.random.rand()
    next(iter(runner.model.parameters())).data.add_(1)  # as running statistics would change
    step.restore()
    assert states[:2] == (random.getstate(), np.random.get_state()[1].tolist())
    assert torch.equal(states[2], torch.get_rng_state())
    for name, value in runner.model.state_dict().items():
        assert torch.equal(value, weights[name])
    assert all(parameter.grad is None for parameter in runner.model.parameters())
    assert step.num_samples == 8 and step.sample['inputs'].shape[-2:].numel() >= 64 * 64


def test_errors(build, monkeypatch):
    with pytest.raises(ConfigError, match='PyTorch sees no GPU to fill; write a number'):
        build().train()
    limit(monkeypatch, 0)
    with pytest.raises(ConfigError, match='one image does not fit the GPU'):
        build().train()
    with pytest.raises(ConfigError, match='with fsdp_units'):
        build(fsdp_units=['FocalBlock']).train()
