"""Checkpoints are complete or absent, whatever happens to disk and process."""

import os
import resource
import sys
from pathlib import Path

import pytest
import torch

from mmfocal.engine.checkpointer import AtomicFilesBackend, corruption_reason, find_latest_valid_checkpoint
from mmfocal.errors import CheckpointError, SavingError
from mmfocal.weights import load_checkpoint

sys.path.insert(0, str(Path(__file__).parent))
from random_training import KillHook, Mean, train


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix == '.pth')


def test_a_backend_that_cannot_write_leaves_the_file_before(tmp_path):
    """The rest of its behaviour is that of `mmfocal.files`."""
    backend = AtomicFilesBackend()
    backend.put_text('before', tmp_path / 'file')
    with pytest.raises(SavingError, match='cannot be saved: .*; earlier checkpoints are intact'):
        backend.put(b'after', tmp_path / 'file/inside')
    assert (tmp_path / 'file').read_bytes() == b'before'


class FullDisk:
    """Two hooks of a training: files cannot grow beyond 1 MiB, which a checkpoint does, between two iterations."""

    def __init__(self, begin, end):
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.hooks = [
            KillHook(begin, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, self.before[1]))),
            KillHook(end, self.restore),
        ]

    def restore(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


@pytest.mark.parametrize('by_epoch', [True, False])
def test_training_continues_when_the_disk_is_full(tmp_path, capfd, by_epoch):
    disk = FullDisk(begin=6, end=11)
    try:
        runner = train(
            tmp_path,
            by_epoch=by_epoch,
            hooks=disk.hooks,
            ballast=1,
            checkpoint=dict(max_keep_ckpts=1, save_best='mean'),
        )
    finally:
        disk.restore()
    assert runner.iter == 15
    unsaved, last = ('epoch_2.pth', 'epoch_3.pth') if by_epoch else ('iter_8.pth', 'iter_15.pth')
    output = ''.join(capfd.readouterr())
    assert f'{tmp_path}/{unsaved} cannot be saved: File too large; it needs ' in output
    assert 'earlier checkpoints are intact; training continues and saves again at the next interval' in output
    saved = [name for name in names(tmp_path) if 'best' not in name]
    assert saved == [last] and (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / last)
    (best,) = tmp_path.glob('best*')
    assert load_checkpoint(tmp_path / last)['message_hub']['runtime_info']['best_ckpt'] == str(best)


def test_what_a_failed_checkpoint_would_replace_is_there(tmp_path):
    """Also the best one; and a training whose last checkpoint is missing does not end as if all were well."""
    disk = FullDisk(begin=6, end=99)
    try:
        with pytest.raises(
            SavingError,
            match='training has finished, but its last checkpoint is missing: .*epoch_3.pth cannot be saved',
        ):
            train(tmp_path, hooks=disk.hooks, ballast=1, checkpoint=dict(max_keep_ckpts=1))
    finally:
        disk.restore()
    assert names(tmp_path) == ['best_mean_epoch_1.pth', 'epoch_1.pth']
    assert not any(corruption_reason(path) for path in tmp_path.glob('*.pth'))
    runner = train(tmp_path, ballast=1, checkpoint=dict(max_keep_ckpts=1))  # with room again
    assert runner.iter == 15 and 'epoch_3.pth' in names(tmp_path)


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    weights = load_checkpoint(path)['state_dict']['layers.0.weight']
    place = content.index(weights.numpy().tobytes())
    content[place] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b'')


@pytest.mark.parametrize('damages', [cut, flip_a_bit, empty])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(tmp_path, capfd, damages):
    train(tmp_path)
    damages(tmp_path / 'epoch_3.pth')
    assert find_latest_valid_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_2.pth')
    assert f'{tmp_path}/epoch_3.pth is corrupt (' in ''.join(capfd.readouterr())
    assert train(tmp_path).iter == 15
    assert corruption_reason(tmp_path / 'epoch_3.pth') is None


def test_all_are_damaged(tmp_path):
    train(tmp_path)
    for path in tmp_path.glob('epoch*'):
        cut(path)
    with pytest.raises(
        CheckpointError, match='no valid checkpoint to resume from, epoch_3.pth, epoch_2.pth are corrupt'
    ):
        train(tmp_path)


@pytest.mark.parametrize('content', ['', '/somewhere/else/epoch_3.pth', '/somewhere/epo', None])
def test_last_checkpoint_is_not_needed(tmp_path, content):
    """A folder that was moved, or copied without it."""
    train(tmp_path)
    (tmp_path / 'last_checkpoint').unlink()
    if content is not None:
        (tmp_path / 'last_checkpoint').write_text(content)
    assert find_latest_valid_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_3.pth')


def test_last_checkpoint_decides(tmp_path):
    train(tmp_path)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_2.pth'))
    assert find_latest_valid_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_2.pth')


def test_checkpoints_of_weights_alone_are_not_taken(tmp_path):
    for name in ('best_mean_epoch_1.pth', 'epoch_12-0123abcd.pth'):
        torch.save(dict(state_dict={}), tmp_path / name)
    assert find_latest_valid_checkpoint(str(tmp_path)) is None
    assert find_latest_valid_checkpoint(str(tmp_path / 'absent')) is None


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    (tmp_path / '.epoch_1.pth.part').write_bytes(b'half')
    train(tmp_path)
    assert not list(tmp_path.glob('.*'))


def test_numbers_of_checkpoints_that_are_kept(tmp_path):
    train(tmp_path, checkpoint=dict(max_keep_ckpts=2, resume_interval=2))
    assert names(tmp_path)[-2:] == ['epoch_2.pth', 'epoch_3.pth'] and len(names(tmp_path)) == 3
    train(tmp_path / 'all', checkpoint=dict(max_keep_ckpts=-1))
    assert names(tmp_path / 'all')[1:] == ['epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth']


def test_checkpoints_in_another_folder(tmp_path):
    """The hook's out_dir, to which MMEngine adds the work directory's name; also a remote one."""
    train(tmp_path / 'work', checkpoint=dict(out_dir=str(tmp_path / 'out')))
    assert find_latest_valid_checkpoint(str(tmp_path / 'work')) == str(tmp_path / 'out/work/epoch_3.pth')
    cut(tmp_path / 'out/work/epoch_3.pth')
    assert find_latest_valid_checkpoint(str(tmp_path / 'work')) == str(tmp_path / 'out/work/epoch_2.pth')
    (tmp_path / 'work/last_checkpoint').write_text('s3://bucket/epoch_7.pth')
    assert find_latest_valid_checkpoint(str(tmp_path / 'work')) == 's3://bucket/epoch_7.pth'


def test_a_failed_resume_file_waits_for_its_interval(tmp_path, capfd):
    disk = FullDisk(begin=1, end=9)
    try:
        train(tmp_path, val=False, hooks=disk.hooks, ballast=1, checkpoint=dict(resume_interval=3))
    finally:
        disk.restore()
    assert ''.join(capfd.readouterr()).count('resume.pth cannot be saved') == 3  # after 3, 6 and 9 iterations


def test_a_best_checkpoint_needs_its_metric(tmp_path, monkeypatch, capfd):
    """Which COCO's evaluator leaves out where nothing was predicted."""
    monkeypatch.setattr(Mean, 'compute_metrics', lambda self, results: dict(other=1.0))
    assert train(tmp_path).iter == 15 and not list(tmp_path.glob('best*'))
    assert (
        ''.join(capfd.readouterr()).count('save_best=mean: not among the metrics of this validation; skipped') == 1
    )  # logged once
