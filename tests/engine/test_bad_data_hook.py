"""BadDataHook counts what the samples of a batch say was skipped, over all processes and after resuming."""

from types import SimpleNamespace

import pytest
from mmengine.logging import MessageHub
from mmengine.structures import BaseDataElement

from mmfocal.engine import BadDataHook, bad_data


@pytest.fixture
def runner(tmp_path):
    told = []
    hub = MessageHub.get_instance(tmp_path.name)
    return SimpleNamespace(iter=0, message_hub=hub, logger=SimpleNamespace(warning=told.append), told=told)


def batch(*sentences):
    samples = [BaseDataElement(), BaseDataElement(metainfo=dict(skipped=list(sentences)))]
    return dict(inputs=None, data_samples=samples if sentences else samples[:1])


def count(runner):
    scalars = runner.message_hub.log_scalars
    return scalars['train/bad_samples'].current() if 'train/bad_samples' in scalars else 0


def test_sentences_and_counts(runner):
    hook = BadDataHook()
    for data in (batch(), [1, 2], dict(inputs=1), dict(inputs=1, data_samples=None), dict(data_samples=[3])):
        hook.before_train_iter(runner, 0, data)
    assert count(runner) == 0 and not runner.told
    hook.before_train_iter(runner, 0, batch('a', 'b'))
    assert count(runner) == 2
    assert runner.told == [f"bad_data='skip': another sample replaces {name}" for name in 'ab']
    hook.before_train_iter(runner, 0, batch('a', *'cdefg'))
    assert count(runner) == 8 and len(runner.told) == 6
    assert runner.told[5] == 'Others are only counted; mmfocal check-dataset --images lists all.'


def test_a_resumed_training_continues_to_count(runner):
    BadDataHook().before_train_iter(runner, 0, batch('a', 'b'))
    hub = MessageHub('resumed')
    hub.load_state_dict(runner.message_hub.state_dict())
    runner.message_hub = hub
    BadDataHook().before_train_iter(runner, 0, batch('c'))
    assert count(runner) == 3


def test_several_processes_put_their_counts_together_now_and_then(runner, monkeypatch):
    gathered = []
    monkeypatch.setattr(bad_data, 'get_world_size', lambda: 2)
    monkeypatch.setattr(bad_data, 'all_gather_object', lambda mine: gathered.append(mine) or [mine, ['of the other']])
    hook = BadDataHook(interval=5)
    for runner.iter in range(7):
        hook.before_train_iter(runner, runner.iter, batch('mine') if runner.iter in (1, 6) else batch())
        assert len(gathered) == (runner.iter >= 4)
    assert count(runner) == 2
    hook.after_train_epoch(runner)
    assert count(runner) == 4 and gathered == [['mine'], ['mine']]
    assert any(text.endswith('of the other') for text in runner.told)
