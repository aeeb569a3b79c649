"""Files are complete or not there; nothing half written is left."""

import os
import resource
from contextlib import contextmanager

import pytest

from mmfocal.errors import SavingError
from mmfocal.files import open_atomically, partial_path, remove_partial_files, write_atomically


@contextmanager
def largest_file(size):
    """A quota: writing more than so many bytes to a file fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path):
    path = tmp_path / 'new folder' / 'file'
    write_atomically(path, b'before')
    with largest_file(1000), pytest.raises(SavingError) as error:
        write_atomically(path, bytes(2000))
    assert path.read_bytes() == b'before' and os.listdir(path.parent) == ['file']
    assert str(error.value).startswith(f'{path} cannot be saved: File too large; it needs 2000 bytes (0.0 MiB), and ')
    free = int(str(error.value).split(', and ')[1].split()[0])
    assert free == pytest.approx(os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize, rel=0.2)


def test_no_space_left_on_the_device(tmp_path, monkeypatch):
    """/dev/full fails as a full disk does."""
    monkeypatch.chdir(tmp_path)
    os.symlink('/dev/full', partial_path('file'))
    with pytest.raises(SavingError, match='No space left on device; it needs 5 bytes .* make room'):
        write_atomically('file', '12345')
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(SavingError, match='cannot be saved: (Not a directory|File exists)$'):
        write_atomically(tmp_path / 'file' / 'inside' / 'name', b'')


def test_an_interrupted_write_leaves_the_file_before(tmp_path):
    path = tmp_path / 'file'
    path.write_bytes(b'before')
    with pytest.raises(KeyboardInterrupt), open_atomically(path) as file:
        file.write(b'after')
        assert path.read_bytes() == b'before'
        raise KeyboardInterrupt
    assert path.read_bytes() == b'before' and os.listdir(tmp_path) == ['file']


def test_partial_files_of_killed_processes_are_removed(tmp_path):
    for name in ('.epoch_1.pth.part', '.epoch_1.pth.7.part', 'kept.part', '.kept'):
        (tmp_path / name).touch()
    remove_partial_files(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ['.kept', 'kept.part']
    remove_partial_files(tmp_path / 'absent')


def test_files_are_as_readable_as_any_other(tmp_path):
    write_atomically(tmp_path / 'file', 'ä')
    (tmp_path / 'other').touch()
    assert (tmp_path / 'file').read_text(encoding='utf-8') == 'ä'
    assert (tmp_path / 'file').stat().st_mode == (tmp_path / 'other').stat().st_mode
