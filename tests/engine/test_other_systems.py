"""What Windows and macOS lack is not needed: the modules and functions are removed here."""

import errno
import importlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from mmfocal import memory
from mmfocal.engine import error_messages, preemption
from mmfocal.engine.workers import WorkerInit

sys.path.insert(0, str(Path(__file__).parent))
from random_training import train

WINDOWS = """
import errno, os, signal, sys
sys.modules['resource'] = sys.modules['fcntl'] = None
for name in ('pthread_sigmask', 'sigwaitinfo', 'sigwait', 'SIGBUS', 'SIGKILL', 'SIGHUP', 'sigtimedwait'):
    if hasattr(signal, name):
        delattr(signal, name)
del errno.EDQUOT
import mmfocal.engine, mmfocal.files
from mmfocal.memory import peak_resident_memory
assert peak_resident_memory() is None
print('imported')
"""


def test_imports_without_modules_and_functions_of_unix():
    done = subprocess.run(
        [sys.executable, '-c', WINDOWS], cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout == 'imported\n', done.stderr


@pytest.mark.parametrize('missing', ['pthread_sigmask', 'sigwaitinfo'])
def test_trains_with_workers(missing, tmp_path, monkeypatch):
    monkeypatch.delattr(signal, missing)
    monkeypatch.setattr(memory, 'resource', None)
    runner = train(tmp_path, workers=1, hooks=[dict(type='HostMemoryHook')])
    assert runner.iter == 15 and 'train/memory' not in runner.message_hub.log_scalars


def test_sigterm_still_saves(tmp_path, monkeypatch):
    for name in ('pthread_sigmask', 'sigwaitinfo'):
        monkeypatch.delattr(signal, name)
    with pytest.raises(SystemExit) as ended:
        train(tmp_path, until=7, kill=lambda: signal.raise_signal(signal.SIGTERM))
    assert ended.value.code == preemption.EXIT_CODE == 143
    assert (tmp_path / 'resume.pth').is_file()


def test_folders_that_cannot_be_opened(tmp_path, monkeypatch):
    """Windows opens no folder, so that no name can be synced."""
    from mmfocal import files

    def refuse(path, flags, *args):
        raise PermissionError(errno.EACCES, 'Permission denied', str(path))

    monkeypatch.setattr(files.os, 'open', refuse)
    files.write_atomically(tmp_path / 'file', 'text')
    assert (tmp_path / 'file').read_text() == 'text'


class Samples(list):
    """A data set whose sample cannot be sent."""

    def __getitem__(self, index):
        return (lambda: None,)


def test_a_worker_without_sigbus_still_exits(monkeypatch, capfd):
    """SIGABRT in its place; other errors exit as ever."""
    monkeypatch.delattr(signal, 'SIGBUS')
    loader = DataLoader(Samples([1]), num_workers=1, collate_fn=list, worker_init_fn=WorkerInit())
    start = time.monotonic()
    with pytest.raises(RuntimeError, match='DataLoader worker .* exited unexpectedly'):
        next(iter(loader))
    assert time.monotonic() - start < 60


def test_messages_without_a_quota(monkeypatch, capsys):
    monkeypatch.delattr(errno, 'EDQUOT')
    module = importlib.reload(error_messages)
    try:
        with pytest.raises(SystemExit), module.one_sentence_errors():
            raise OSError(errno.ENOSPC, 'No space left on device', 'log')
    finally:
        monkeypatch.undo()
        importlib.reload(error_messages)
    assert 'free some space' in capsys.readouterr().err
