"""Early stopping and moving averages: a training that is killed and resumed ends as an uninterrupted one."""

import sys
from pathlib import Path

import pytest
import torch

from mmfocal.engine import ResumableEarlyStoppingHook
from mmfocal.errors import ConfigError
from mmfocal.weights import load_checkpoint

sys.path.insert(0, str(Path(__file__).parent))
from random_training import Killed, train
from test_resuming import assert_same_training

EMA = dict(type='EMAHook', ema_type='MomentumAnnealingEMA', momentum=0.1, update_buffers=True)


def stop(patience=2, **more):
    """Only the first of the validations after iterations 4, 8, 12 and 15 improves."""
    hook = dict(type='ResumableEarlyStoppingHook', monitor='mean', rule='greater', min_delta=1e9)
    return hook | dict(patience=patience) | more


def last(work_dir):
    return load_checkpoint((work_dir / 'last_checkpoint').read_text())


@pytest.mark.parametrize('until, interval', [(3, 0), (8, 0), (9, 0), (12, 0), (7, 3), (11, 3)])
def test_a_resumed_training_stops_when_an_uninterrupted_one_does(tmp_path, until, interval):
    options = dict(by_epoch=False, hooks=(stop(),), checkpoint=dict(resume_interval=interval))
    whole = train(tmp_path / 'whole', **options)
    assert whole.iter == 12
    with pytest.raises(Killed):
        train(tmp_path / 'killed', until=until, **options)
    assert train(tmp_path / 'killed', **options).iter == 12
    one, other = last(tmp_path / 'whole'), last(tmp_path / 'killed')
    assert one['early_stopping'] == other['early_stopping'] and one['early_stopping']['wait_count'] == 2
    for name, value in one['state_dict'].items():
        assert torch.equal(value, other['state_dict'][name])


def test_without_its_state_it_would_not_stop(tmp_path):
    """MMEngine's hook counts anew after resuming."""
    options = dict(by_epoch=False, hooks=(stop(type='EarlyStoppingHook'),))
    with pytest.raises(Killed):
        train(tmp_path, until=9, **options)
    assert train(tmp_path, **options).iter == 15


def test_by_epoch(tmp_path):
    assert train(tmp_path, hooks=(stop(1),)).epoch == 2
    assert last(tmp_path)['meta']['epoch'] == 2


def test_a_training_that_has_stopped_stays_so_unless_patience_is_raised(tmp_path, capfd):
    train(tmp_path, by_epoch=False, hooks=(stop(),))
    assert train(tmp_path, by_epoch=False, hooks=(stop(),)).iter == 12
    assert 'early stopping: mean had not improved in 2 validations' in capfd.readouterr().out
    assert train(tmp_path, by_epoch=False, hooks=(stop(3),)).iter == 15


def test_another_metric_starts_anew(tmp_path):
    train(tmp_path, by_epoch=False, hooks=(stop(),))
    runner = train(tmp_path, by_epoch=False, hooks=(stop(monitor='other'),))
    assert runner.iter == 15


def test_patience_that_cannot_be():
    with pytest.raises(ConfigError, match='patience=0'):
        ResumableEarlyStoppingHook('mean', rule='greater', patience=0)


@pytest.mark.parametrize('until', [7, 10])
def test_moving_averages_are_exact_too(tmp_path, until):
    options = dict(hooks=(EMA,), checkpoint=dict(resume_interval=3))
    train(tmp_path / 'whole', **options)
    with pytest.raises(Killed):
        train(tmp_path / 'killed', until=until, **options)
    train(tmp_path / 'killed', **options)
    assert_same_training(tmp_path / 'whole', tmp_path / 'killed')
    averages, weights = last(tmp_path / 'whole')['state_dict'], last(tmp_path / 'whole')['ema_state_dict']
    assert not torch.equal(averages['layers.0.weight'], weights['module.layers.0.weight'])
