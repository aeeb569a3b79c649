"""Checkpoints run no code, from a file or a URL; a file that cannot be loaded is one sentence."""

import functools
import hashlib
import http.server
import io
import os
import pickle
import subprocess
import sys
import tarfile
import threading
import zipfile

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint

from mmfocal.errors import CheckpointError, MissingFileError
from mmfocal.weights import load_checkpoint, register_safe_loaders


class Call:
    """Pickles as a call of `function`, which may be the result of another Call."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __call__(self):
        """Pickle requires a callable."""

    def __reduce__(self):
        return self.function, self.args


def bomb(kind, marker):
    """Returns an object that creates `marker` when it is unpickled."""
    code, command = f"open({str(marker)!r}, 'w').close()", f'touch {marker}'
    if kind == 'system':
        return Call(os.system, command)
    if kind == 'eval':
        return Call(eval, code)
    if kind == '__import__':
        return Call(Call(getattr, Call(__import__, 'os'), 'system'), command)
    # '__init__': HistoryBuffer.__init__.__globals__['__builtins__']['exec'](code)
    module = Call(getattr, Call(getattr, HistoryBuffer, '__init__'), '__globals__')
    builtins = Call(Call(getattr, module, '__getitem__'), '__builtins__')
    return Call(Call(Call(getattr, builtins, '__getitem__'), 'exec'), code)


def save(content, path, file_format):
    if file_format == 'pickle':
        path.write_bytes(pickle.dumps(content, 2))
    elif file_format != 'tar':
        torch.save(content, path, _use_new_zipfile_serialization=file_format != 'legacy')
    else:
        with tarfile.open(path, 'w') as tar:
            for name, part in (('storages', 0), ('tensors', 0), ('pickle', content)):
                data, info = pickle.dumps(part, 2), tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def set_off(path, file_format):
    """Reads as an unprotected loader would: the control that a hostile file is one."""
    if file_format == 'zip':
        with zipfile.ZipFile(path) as file:
            pickle.loads(file.read(next(name for name in file.namelist() if name.endswith('/data.pkl'))))
    elif file_format == 'tar':
        with tarfile.open(path) as tar:
            pickle.load(tar.extractfile('pickle'))
    else:
        with open(path, 'rb') as file:
            for _ in range(4 if file_format == 'legacy' else 1):  # behind magic number, version and platform
                pickle.load(file)


@pytest.mark.parametrize('file_format', ['zip', 'legacy', 'pickle', 'tar'])
@pytest.mark.parametrize('kind', ['system', 'eval', '__import__', '__init__'])
def test_a_file_runs_no_code(tmp_path, kind, file_format):
    marker, path = tmp_path / 'ran', tmp_path / 'bomb.pth'
    save(dict(state_dict={}, payload=bomb(kind, marker)), path, file_format)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    assert not marker.exists()
    message = str(error.value)
    assert message.startswith(str(path)) and '\n' not in message
    if file_format == 'tar':
        assert 'legacy .tar' in message
    else:
        # a plain pickle is read as Paddle's, whose list of names has no getattr
        named = 'getattr' if file_format == 'pickle' and '__' in kind else kind
        assert named in message and 'nothing was run' in message
    set_off(path, file_format)
    assert marker.exists()


def test_arrays_of_objects_are_refused(tmp_path):
    """NumPy takes the bytes of such an array for addresses of objects."""
    call = Call(np.ndarray, (1,), 'O', bytearray(8))
    assert call.function(*call.args)[0] is None  # NumPy read the address 0
    torch.save(call, tmp_path / 'objects.pth')
    assert load_checkpoint(tmp_path / 'objects.pth').dtype != object
    torch.save(np.array([None]), tmp_path / 'objects.pth')
    with pytest.raises(CheckpointError, match='numpy.dtype'):
        load_checkpoint(tmp_path / 'objects.pth')


def test_a_history_buffer_cannot_change_the_statistics(tmp_path):
    class Poisoned(HistoryBuffer):
        def __reduce_ex__(self, protocol):
            return HistoryBuffer, (), dict(self.__dict__, statistics_methods={'mean': torch.Size})

    torch.save(Poisoned([1.0], [1]), tmp_path / 'poisoned.pth')
    loaded = load_checkpoint(tmp_path / 'poisoned.pth')
    assert type(loaded) is HistoryBuffer and loaded.statistics('mean') == 1


class Handler(http.server.SimpleHTTPRequestHandler):
    def copyfile(self, source, outputfile):
        """Sends a file; of one whose name has `cut`, the first half."""
        content = source.read()
        outputfile.write(content[: len(content) // 2] if 'cut' in self.path else content)

    def log_request(self, *_):
        self.server.requests.append(self.path)

    def log_message(self, *_):
        """Prints nothing."""


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server on `folder`, and an empty torch.hub cache."""
    for name in [name for name in os.environ if name.lower().endswith('_proxy')]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'hub'))
    folder = tmp_path / 'www'
    folder.mkdir()
    handler = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        server.requests, server.folder, server.url = [], folder, f'http://127.0.0.1:{server.server_port}'
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize('scheme', ['http', 'torchvision', 'modelzoo', 'open-mmlab', 'openmmlab', 'mmcls', 'home'])
def test_a_url_runs_no_code(tmp_path, monkeypatch, server, scheme):
    register_safe_loaders()
    monkeypatch.setenv('MMENGINE_HOME', str(server.folder))  # OpenMMLab's names stand for URLs or files there
    base = '' if scheme == 'home' else f'{server.url}/'
    urls = {name: f'{base}{name}.pth' for name in ('honest', 'bomb')}
    for table in ('torchvision', 'external', 'mmcls'):
        monkeypatch.setattr(mmengine_checkpoint, f'get_{table}_models', lambda: urls)
    prefix, suffix = (server.url + '/', '.pth') if scheme == 'http' else (scheme + '://', '')
    prefix = prefix.replace('home', 'openmmlab')
    marker = tmp_path / 'ran'
    torch.save(dict(state_dict={'backbone.weight': torch.ones(2)}), server.folder / 'honest.pth')
    torch.save(dict(state_dict=bomb('system', marker)), server.folder / 'bomb.pth')

    assert load_checkpoint(f'{prefix}honest{suffix}')['state_dict'].popitem()[1].equal(torch.ones(2))
    with pytest.raises(CheckpointError, match='nothing was run'):
        mmengine_checkpoint.load_checkpoint(torch.nn.Linear(1, 1), f'{prefix}bomb{suffix}')  # as by init_cfg
    assert not marker.exists()
    set_off((server.folder if scheme == 'home' else tmp_path / 'hub' / 'checkpoints') / 'bomb.pth', 'zip')
    assert marker.exists()


IMPORT_ONLY = """
from mmengine.runner import CheckpointLoader
before = dict(CheckpointLoader._schemes)
import mmfocal.engine, mmfocal.models, mmfocal.weights
assert CheckpointLoader._schemes == before
mmfocal.weights.register_safe_loaders()
assert all(loader.__module__.startswith('mmfocal.') for loader in CheckpointLoader._schemes.values())
"""


def test_mmengine_loads_safely_after_a_call_not_after_an_import():
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    subprocess.run([sys.executable, '-c', IMPORT_ONLY], env=environment, check=True)


def test_every_scheme_is_replaced():
    register_safe_loaders()
    assert len(CheckpointLoader._schemes) >= 11
    assert all(loader.__module__.startswith('mmfocal.') for loader in CheckpointLoader._schemes.values())
    for path in ('pavi://x.pth', 's3://x.pth', 'cluster:s3://x.pth', 'petrel://x.pth', 'mmcls://no_such'):
        with pytest.raises(CheckpointError, match=path):
            load_checkpoint(path)


def test_a_url_is_downloaded_once_and_its_hash_is_checked(tmp_path, server):
    torch.save(dict(a=torch.ones(2)), server.folder / 'wrong-01234567.pth')
    content = (server.folder / 'wrong-01234567.pth').read_bytes()
    right = f'right-{hashlib.sha256(content).hexdigest()[:8]}.pth'
    (server.folder / right).write_bytes(content)
    for _ in range(2):
        assert load_checkpoint(f'{server.url}/{right}?download=1')['a'].sum() == 2
    assert len(server.requests) == 1
    with pytest.raises(
        CheckpointError, match=r'could not be downloaded \(its SHA-256 is .*, and the hash in its name 01234567\); '
    ):
        load_checkpoint(f'{server.url}/wrong-01234567.pth')
    (server.folder / 'cut.pth').write_bytes(content)
    with pytest.raises(CheckpointError, match=f'it ended after {len(content) // 2} of {len(content)} bytes'):
        load_checkpoint(f'{server.url}/cut.pth')
    assert os.listdir(tmp_path / 'hub' / 'checkpoints') == [right]


def test_a_server_that_does_not_answer(server):
    server.server_close()
    for url, words in (f'{server.url}/x.pth', 'not be downloaded .* by hand'), (f'{server.url}/', 'no file'):
        with pytest.raises(CheckpointError, match=f'^{url}.*{words}'):
            load_checkpoint(url)


RANK = """
import sys, torch
from mmfocal.weights import load_checkpoint
rank, store, hub, url = sys.argv[1:]
torch.hub.set_dir(hub)
torch.distributed.init_process_group('gloo', init_method='file://' + store, rank=int(rank), world_size=2)
assert load_checkpoint(url + '/good.pth')['a'].item() == 1
load_checkpoint(url + '/absent.pth')
"""


def test_one_rank_downloads_and_all_raise_on_failure(tmp_path, server):
    torch.save(dict(a=torch.ones(1)), server.folder / 'good.pth')
    ranks = []
    for rank in '01':
        command = [sys.executable, '-c', RANK, rank, tmp_path / 'store', tmp_path / 'hub', server.url]
        environment = dict(os.environ, LOCAL_RANK=rank, PYTHONPATH=os.pathsep.join(sys.path))
        ranks.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    try:
        errors = [rank.communicate(timeout=60)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    for error in errors:
        assert f'CheckpointError: {server.url}/absent.pth could not be downloaded (HTTP Error 404' in error
    assert server.requests == ['/good.pth', '/absent.pth']


@pytest.mark.parametrize('damage', ['zip cut', 'legacy cut', 'text', 'noise'])
def test_damaged_files(tmp_path, damage):
    save(dict(a=torch.ones(1000)), tmp_path / 'x.pth', damage.split()[0])
    content = dict(text=b'hello\n', noise=bytes(range(256)))
    (tmp_path / 'x.pth').write_bytes(content.get(damage, (tmp_path / 'x.pth').read_bytes()[:3000]))
    with pytest.raises(CheckpointError, match='x.pth: truncated or not a checkpoint') as error:
        load_checkpoint(tmp_path / 'x.pth')
    assert '\n' not in str(error.value) and 'weights_only' not in str(error.value)


NO_WEIGHTS = [
    (b'', 'an empty file'),
    (b'<html>\n</html>', 'a web page'),
    (b'\xef\xbb\xbf\n<!DOCTYPE html><title>Sign in</title>', 'a web page'),
    (b'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n', 'a Git LFS pointer'),
    (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', 'a text'),
    (b'{"message": "Not Found"}', 'a text'),
]


@pytest.mark.parametrize('suffix', ['pth', 'pdparams', 'safetensors'])
@pytest.mark.parametrize('content, what', NO_WEIGHTS, ids=['empty', 'page', 'login', 'LFS', 'XML', 'JSON'])
def test_files_that_are_not_weights(tmp_path, content, what, suffix):
    (tmp_path / f'x.{suffix}').write_bytes(content)
    with pytest.raises(CheckpointError, match=f'x.{suffix}: this is {what}.*; ') as error:
        load_checkpoint(tmp_path / f'x.{suffix}')
    assert '\n' not in str(error.value)


def test_a_page_instead_of_a_download_is_not_kept(tmp_path, server):
    (server.folder / 'page.pth').write_bytes(NO_WEIGHTS[1][0])
    with pytest.raises(CheckpointError, match='could not be downloaded .it is a web page'):
        load_checkpoint(f'{server.url}/page.pth')
    assert os.listdir(tmp_path / 'hub' / 'checkpoints') == []


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path):
    torch.save(dict(a=torch.zeros(2**20)), tmp_path / 'x.pth')
    with (
        zipfile.ZipFile(tmp_path / 'x.pth') as plain,
        zipfile.ZipFile(tmp_path / 'bomb.pth', 'w', zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in plain.infolist():
            bomb.writestr(entry.filename, plain.read(entry))
    with pytest.raises(CheckpointError, match='bomb.pth: a compressed archive of 4[0-9]{6} bytes in [0-9]{4}, '):
        load_checkpoint(tmp_path / 'bomb.pth')
    assert load_checkpoint(tmp_path / 'x.pth')['a'].shape == (2**20,)


def test_absent_files(tmp_path):
    for path in (tmp_path / 'absent.pth', tmp_path):
        with pytest.raises(MissingFileError, match=f'{path}: there is no such'):
            load_checkpoint(path)
