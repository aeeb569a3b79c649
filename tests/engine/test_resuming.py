"""A training that is interrupted and resumed gives, bit for bit, what an uninterrupted one does."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner

from mmfocal.weights import load_checkpoint

TOOLS = Path(__file__).parents[2] / 'tools'
DATA = Path(__file__).parents[1] / 'data/engine'
sys.path.insert(0, str(Path(__file__).parent))
from random_training import Killed, Mean, Noise, train  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def values(node, name=''):
    """All values of nested dicts and lists by their dotted names."""
    if isinstance(node, (dict, list, tuple)):
        pairs = node.items() if isinstance(node, dict) else enumerate(node)
        return {key: value for inner, child in pairs for key, value in values(child, f'{name}.{inner}').items()}
    return {name: node}


def last(work_dir):
    return load_checkpoint((work_dir / 'last_checkpoint').read_text())


def assert_same_training(work_dir, other):
    one, other = last(work_dir), last(other)
    for key in ('state_dict', 'optimizer', 'param_schedulers', 'ema_state_dict'):
        these, those = values(one.get(key, {})), values(other.get(key, {}))
        assert these.keys() == those.keys()
        for name, value in these.items():
            assert torch.equal(value, those[name]) if torch.is_tensor(value) else value == those[name], (key, name)
    assert one['meta']['iter'] == other['meta']['iter'] == 15
    best = [checkpoint['message_hub']['runtime_info'].get('best_score') for checkpoint in (one, other)]
    assert best[0] == best[1]


@pytest.mark.parametrize('until', [5, 7, 10])
@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(by_epoch=False),
        dict(checkpoint=dict(resume_interval=2)),
        dict(by_epoch=False, checkpoint=dict(resume_interval=3)),
        dict(ema=True, amp=True, accumulate=2, checkpoint=dict(resume_interval=3)),
        dict(by_epoch=False, ema=True, amp=True, accumulate=3),
    ],
    ids=str,
)
def test_is_exact(tmp_path, options, until):
    train(tmp_path / 'whole', **options)
    with pytest.raises(Killed):
        train(tmp_path / 'killed', until=until, **options)
    train(tmp_path / 'killed', **options)
    assert_same_training(tmp_path / 'whole', tmp_path / 'killed')


def test_the_comparison_sees_another_seed(tmp_path):
    train(tmp_path / 'one')
    train(tmp_path / 'other', seed=4)
    with pytest.raises(AssertionError):
        assert_same_training(tmp_path / 'one', tmp_path / 'other')


@pytest.mark.parametrize('by_epoch', [True, False])
def test_is_exact_without_a_seed_in_the_config(tmp_path, by_epoch):
    """MMEngine draws one and writes it into the checkpoint."""
    with pytest.raises(Killed):
        train(tmp_path / 'killed', by_epoch=by_epoch, seed=None, until=7)
    seed = last(tmp_path / 'killed')['meta']['seed']
    train(tmp_path / 'killed', by_epoch=by_epoch, seed=None)
    train(tmp_path / 'whole', by_epoch=by_epoch, seed=seed)
    assert_same_training(tmp_path / 'whole', tmp_path / 'killed')


@pytest.mark.parametrize('by_epoch', [True, False])
def test_number_of_workers_changes_nothing(tmp_path, by_epoch):
    options = dict(by_epoch=by_epoch, val=False, checkpoint=dict(resume_interval=2))
    train(tmp_path / 'whole', **options)
    with pytest.raises(Killed):
        train(tmp_path / 'killed', until=7, workers=2, **options)
    train(tmp_path / 'killed', workers=1, **options)
    assert_same_training(tmp_path / 'whole', tmp_path / 'killed')


@pytest.mark.parametrize('by_epoch', [True, False])
def test_earlier_batches_are_not_read_again(tmp_path, by_epoch):
    options = dict(by_epoch=by_epoch, val=False, checkpoint=dict(resume_interval=1))
    train(tmp_path / 'whole', log=tmp_path / 'whole.txt', **options)
    with pytest.raises(Killed):
        train(tmp_path / 'killed', log=tmp_path / 'first.txt', until=8, **options)
    train(tmp_path / 'killed', log=tmp_path / 'second.txt', **options)
    whole, first, second = ((tmp_path / f'{name}.txt').read_text().split() for name in ('whole', 'first', 'second'))
    assert len(whole) == 60 and len(first) == 32
    # The hook that saves comes before the one that kills: the eighth iteration is saved.
    assert first + second == whole


def test_another_batch_size_continues_where_the_data_stopped(tmp_path):
    options = dict(val=False, checkpoint=dict(resume_interval=1))
    with pytest.raises(Killed):
        train(tmp_path, log=tmp_path / 'first.txt', until=2, **options)
    with pytest.raises(Killed):
        train(tmp_path, log=tmp_path / 'second.txt', batch_size=2, until=4 + 6, **options)
    read = (tmp_path / 'first.txt').read_text().split() + (tmp_path / 'second.txt').read_text().split()
    # Two batches of 4 count as four of 2; six follow.
    assert sorted(map(int, read)) == list(range(20))


def test_resumes_from_checkpoints_of_mmengine(tmp_path):
    with pytest.raises(Killed):
        train(tmp_path, runner_type=Runner, hook='CheckpointHook', resume=False, until=7)
    runner = train(tmp_path)
    assert runner.iter == 15 and last(tmp_path)['meta']['epoch'] == 3


def test_sigterm_saves_within_the_epoch(tmp_path):
    train(tmp_path / 'whole')
    with pytest.raises(SystemExit) as ended:
        train(tmp_path / 'ended', until=7, kill=lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert ended.value.code == 143
    assert last(tmp_path / 'ended')['meta']['iter'] == 7
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    train(tmp_path / 'ended')
    assert_same_training(tmp_path / 'whole', tmp_path / 'ended')
    assert not (tmp_path / 'ended/resume.pth').exists()


@pytest.mark.parametrize(
    'end',
    [pytest.param(lambda: os.kill(os.getpid(), signal.SIGTERM), id='SIGTERM'), pytest.param(lambda: 1 / 0, id='crash')],
)
@pytest.mark.parametrize('ema', [False, True])
def test_an_interrupted_validation_is_done_again(tmp_path, monkeypatch, end, ema):
    train(tmp_path / 'whole', ema=ema, checkpoint=dict(interval=2))
    calls = []

    def second_validation():
        calls.append(1)
        if len(calls) == 7:  # 5 batches each
            end()

    monkeypatch.setattr(Mean, 'in_evaluation', second_validation)
    with pytest.raises((SystemExit, ZeroDivisionError)) as ended:
        train(tmp_path / 'ended', ema=ema, checkpoint=dict(interval=2))
    assert getattr(ended.value, 'code', 143) == 143
    monkeypatch.setattr(Mean, 'in_evaluation', lambda: calls.append(2))
    train(tmp_path / 'ended', ema=ema, checkpoint=dict(interval=2))
    assert calls.count(2) == 10  # the second one again, and the third
    assert_same_training(tmp_path / 'whole', tmp_path / 'ended')


def test_validation_is_not_done_twice(tmp_path, monkeypatch):
    with pytest.raises(Killed):
        train(tmp_path, until=7)
    calls = []
    monkeypatch.setattr(Mean, 'in_evaluation', lambda: calls.append(1))
    train(tmp_path)
    assert len(calls) == 10  # after the second and the third epoch
    train(tmp_path)  # which is trained to the end
    assert len(calls) == 10


def test_a_validation_of_an_earlier_training_does_not_count(tmp_path, monkeypatch):
    train(tmp_path)
    calls = []

    def killed_in_the_first():
        calls.append(1)
        if len(calls) == 2:
            raise Killed

    monkeypatch.setattr(Mean, 'in_evaluation', killed_in_the_first)
    with pytest.raises(Killed):
        train(tmp_path, resume=False, seed=4)
    calls.clear()
    monkeypatch.setattr(Mean, 'in_evaluation', lambda: calls.append(1))
    train(tmp_path)
    assert len(calls) == 15


def test_epochs_differ_from_each_other(tmp_path):
    """The augmentation of one image is not that of the epoch before."""
    seen = {}

    class Spy(Noise):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            seen.setdefault(index, []).append(tuple(sample['inputs'].tolist()))
            return sample

    import random_training

    original, random_training.Noise = random_training.Noise, Spy
    try:
        train(tmp_path, val=False)
    finally:
        random_training.Noise = original
    assert set(seen) == set(range(20)) and all(len(set(draws)) == 3 for draws in seen.values())
    assert len({draw[1] for draws in seen.values() for draw in draws}) == 60


@pytest.mark.slow
@pytest.mark.parametrize('val', [True, False])
def test_sigterm_to_all_processes_with_workers(tmp_path, val):
    """As a cluster sends it; workers, which get it too, live on until the last batch is there."""
    command = [
        sys.executable,
        Path(__file__).with_name('random_training.py'),
        tmp_path,
        'until=7',
        'workers=2',
        f'val={val}',
    ]
    process = subprocess.run(command, start_new_session=True, capture_output=True, text=True, timeout=120)
    assert process.returncode == 143, process.stderr
    assert last(tmp_path)['meta']['iter'] == 7


@pytest.mark.slow
@pytest.mark.parametrize('told', ['one process', 'the launcher'])
def test_sigterm_ends_two_processes(tmp_path, told):
    """Also where one process alone is told, as by hand, and not their launcher, as by a cluster."""
    shutil.copytree(TOOLS, tmp_path / 'tools')
    (tmp_path / 'tools/two.py').write_text(f"""import os, signal, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from random_training import train

def kill():
    os.kill({'os.getpid()' if told == 'one process' else 'os.getppid()'}, signal.SIGTERM)
    time.sleep(5)  # so that the launcher has passed it on

train({str(tmp_path / 'work')!r}, launcher='pytorch', until=4, val=False, batch_size=2, kill=kill)
""")
    environment = dict(
        os.environ, PATH=f'{Path(sys.executable).parent}:{os.environ["PATH"]}', PYTHONPATH=str(TOOLS.parent)
    )
    command = [tmp_path / 'tools/dist_run.sh', 'two.py', '2']
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert process.returncode == 143, process.stderr
    assert last(tmp_path / 'work')['meta']['iter'] == 4
    runner = train(tmp_path / 'work', val=False)  # one process, with the batch of both
    assert runner.iter == 15


@pytest.mark.parametrize('name', ['epoch_1', 'resume'])
def test_resumes_from_checkpoints_of_earlier_releases(tmp_path, name):
    """Files that commit 04e4259 wrote after 5 and 7 iterations, the second with accumulated gradients."""
    options = dict(ema=True, amp=True, accumulate=2)
    train(tmp_path / 'whole', **options)
    (tmp_path / 'resumed').mkdir()
    shutil.copy(DATA / f'{name}_0.1.0.pth', tmp_path / 'resumed' / f'{name}.pth')
    train(tmp_path / 'resumed', **options)
    one, other = last(tmp_path / 'whole'), last(tmp_path / 'resumed')
    for key in ('state_dict', 'ema_state_dict'):  # another processor may round otherwise
        torch.testing.assert_close(dict(one[key]), dict(other[key]), rtol=1e-4, atol=1e-6)
    assert one['param_schedulers'] == other['param_schedulers']
    assert one['meta']['iter'] == other['meta']['iter'] == 15
    assert one['optimizer']['state'][0]['step'] == other['optimizer']['state'][0]['step']
