"""Machines with little memory or space, other locales or paths: training works or says what is missing."""

import errno
import io
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from mmfocal.engine import one_sentence_errors
from mmfocal.engine.workers import WorkerInit

ROOT = Path(__file__).parents[2]
NANO = 'configs/atss_focal_nano_shapes.py'


class Refused:
    """What a worker cannot hand over."""

    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        raise self.error


class Samples(Dataset):
    def __init__(self, give):
        self.give = give

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.give()


def fails(error):
    raise error


def read(give):
    """Reads one sample by a worker."""
    for _ in DataLoader(Samples(give), num_workers=1, collate_fn=list, worker_init_fn=WorkerInit()):
        """Never."""


SHM = 'unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)'


@pytest.mark.parametrize(
    'give, said',
    [
        (lambda: Refused(RuntimeError(SHM)), 'error: /dev/shm ('),
        (lambda: os.kill(os.getpid(), signal.SIGBUS), 'error: /dev/shm ('),
        (
            lambda: os.kill(os.getpid(), signal.SIGKILL),
            'error: data loader: a worker ran out of memory',
        ),
        (
            lambda: fails(MemoryError('Unable to allocate 2 TiB')),
            'error: data loader: a worker ran out of memory',
        ),
        (
            lambda: fails(RuntimeError("DefaultCPUAllocator: can't allocate memory")),
            'error: data loader: a worker ran out of memory',
        ),
        (
            lambda: fails(OSError(errno.EMFILE, os.strerror(errno.EMFILE))),
            'error: too many open files; raise the limit',
        ),
        (
            lambda: fails(PermissionError(errno.EACCES, 'Permission denied', 'a.jpg')),
            "error: [Errno 13] Permission denied: 'a.jpg'; change the permissions, or choose another",
        ),
    ],
)
def test_what_a_worker_dies_of(give, said, capfd):
    with pytest.raises(SystemExit), one_sentence_errors():
        read(give)
    last = capfd.readouterr().err.splitlines()[-1].strip('\0')  # PyTorch's word on SIGBUS ends in one
    assert last.startswith(said)
    assert 'num_workers' in last or 'permissions' in last


def test_what_cannot_be_handed_over_does_not_hang(capfd):
    with pytest.raises(RuntimeError, match='DataLoader worker .* exited unexpectedly'):
        read(lambda: Refused(ValueError('not to be pickled')))
    assert 'not to be pickled' in capfd.readouterr().err


@pytest.mark.parametrize(
    'error, said',
    [
        (
            OSError(errno.ENOSPC, 'No space left on device', 'work/log'),
            "[Errno 28] No space left on device: 'work/log'; free some space",
        ),
        (
            OSError(errno.EROFS, 'Read-only file system', 'work'),
            "[Errno 30] Read-only file system: 'work'; change the permissions",
        ),
    ],
)
def test_disks(error, said, capsys):
    with pytest.raises(SystemExit), one_sentence_errors():
        raise error
    assert capsys.readouterr().err.startswith(f'error: {said}')


@pytest.mark.parametrize(
    'error', [OSError(errno.EIO, 'Input/output error'), RuntimeError('mat1 and mat2'), TypeError('no')]
)
def test_other_errors_keep_their_traceback(error):
    with pytest.raises(type(error)), one_sentence_errors():
        raise error


@pytest.mark.slow
def test_a_folder_that_cannot_be_made(shapes, monkeypatch, capsys):
    """Nobody makes folders in /sys, root neither."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv('SHAPES_ROOT', str(shapes))
    monkeypatch.setattr(sys, 'argv', ['train.py', NANO, '--work-dir', '/sys/mmfocal'])
    with pytest.raises(SystemExit):
        runpy.run_path('tools/train.py', run_name='__main__')
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith('error: ') and "'/sys/mmfocal'; change the permissions, or choose another folder" in error


@pytest.mark.parametrize('wrapped', [False, True])
def test_a_package_that_is_not_installed(wrapped, capsys):
    """Also behind a library's own error, as MMEngine's of wandb."""
    with pytest.raises(SystemExit), one_sentence_errors():
        try:
            import no_such_package.module  # noqa: F401
        except ImportError:
            if not wrapped:
                raise
            raise ImportError('Please run "pip install no_such_package"')  # noqa: B904  as libraries do
    assert capsys.readouterr().err == (
        f'error: no_such_package: package not installed, and {__file__} imports it; pip install no_such_package\n'
    )


def test_a_module_that_an_installed_package_lacks_keeps_its_traceback():
    with pytest.raises(ImportError), one_sentence_errors():
        import torch.no_such_module  # noqa: F401
    with pytest.raises(ImportError), one_sentence_errors():
        from torch import no_such_name  # noqa: F401


def test_a_terminal_of_ascii(monkeypatch):
    monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(io.BytesIO(), 'ascii'))
    with one_sentence_errors():
        print('圆圈')
    sys.stdout.flush()
    assert sys.stdout.buffer.getvalue() == b'\\u5706\\u5708\n'


def test_a_locale_of_ascii(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'getfilesystemencoding', lambda: 'ascii')
    with pytest.raises(SystemExit), one_sentence_errors():
        '圆圈'.encode('ascii')
    assert capsys.readouterr().err.endswith('Python reads files and paths as ascii: export PYTHONUTF8=1\n')


@pytest.mark.slow
def test_odd_names_on_a_small_machine(shapes, tmp_path):
    """Letters and spaces in all paths and a class's name, one core, a log that is no terminal and knows ASCII alone."""
    root, data, work_dir = (tmp_path / name for name in ('mmfocal von Zoë', 'dätä 数据', 'wörk dir 目录'))
    for folder in ('configs', 'mmfocal', 'tools'):
        shutil.copytree(ROOT / folder, root / folder, symlinks=True, ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copytree(shapes, data)
    for path in (data / 'annotations').glob('instances_*.json'):
        coco = json.loads(path.read_text())
        coco['categories'][0]['name'] = '圆圈'
        path.write_text(json.dumps(coco, ensure_ascii=False), encoding='utf-8')
    classes = [
        f"{split}_dataloader.dataset.metainfo.classes=('圆圈','square','triangle','cross')"
        for split in ('train', 'val', 'test')
    ]
    done = subprocess.run(
        [
            sys.executable,
            'tools/train.py',
            NANO,
            '--work-dir',
            str(work_dir),
            '--cfg-options',
            *classes,
            'train_cfg.max_epochs=1',
            'train_cfg.val_interval=1',
            'val_evaluator.classwise=True',
            'model.test_cfg.score_thr=0.',
            'model.backbone.arch.depths=(1,1,1,1)',
            'train_dataloader.num_workers=2',
        ],
        cwd=root,
        capture_output=True,
        timeout=300,
        preexec_fn=lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1]),
        env={
            **os.environ,
            'PYTHONPATH': str(root),
            'SHAPES_ROOT': str(data),
            'LC_ALL': 'C',
            'PYTHONIOENCODING': 'ascii',
        },
    )
    assert done.returncode == 0, done.stderr
    assert b'u5706' in done.stdout + done.stderr and b'Logging error' not in done.stderr
    assert (work_dir / 'epoch_1.pth').is_file() and str(work_dir) in (work_dir / 'last_checkpoint').read_text()
