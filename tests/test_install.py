"""The set-up: its errors, and what it chooses. Nothing big is installed here."""

import fcntl
import os
import re
import subprocess
import sys
import venv
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / 'tools' / 'install'))

import checks  # noqa: E402
import compile_mmcv  # noqa: E402
import environment  # noqa: E402
import install  # noqa: E402


def script(path, text):
    """Writes an executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\n{text}\n')
    path.chmod(0o755)
    return path


def run_install(folder, *options, **variables):
    """Runs the set-up as `make` does, with these environment variables; returns the line it fails with."""
    done = subprocess.run(
        [sys.executable, ROOT / 'tools' / 'install' / 'install.py', '--venv', folder, *options],
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    return line


def new_environment(folder):
    return environment.Environment(folder, install.PYTHONS)


# Errors.


def test_no_compiler(tmp_path):
    line = run_install(tmp_path / 'venv', '--ops', 'compile', PATH=str(tmp_path), CXX='c++')
    assert line.startswith('mmfocal set-up: no C++17 compiler: `c++` does not compile (No such file or dir')
    assert not (tmp_path / 'venv').exists()


def test_compiler_that_is_too_old(tmp_path):
    old = script(tmp_path / 'old', 'echo "cc1plus: unrecognised option -std=c++17" >&2; exit 1')
    assert f'`{old}` does not compile (cc1plus: unrecognised' in run_install(
        tmp_path / 'venv', '--ops', 'compile', CXX=str(old)
    )


def test_no_headers(tmp_path, monkeypatch):
    monkeypatch.setattr(compile_mmcv.sysconfig, 'get_path', lambda name: tmp_path)
    monkeypatch.setattr(compile_mmcv, 'check_compiler', lambda: None)
    with pytest.raises(checks.SetupError, match=r'Python\.h is missing.*install python3\.1[0-3]-dev'):
        install.set_up(new_environment(tmp_path / 'venv'), ops='compile')
    assert not (tmp_path / 'venv').exists()
    (tmp_path / 'Python.h').touch()
    compile_mmcv.check_headers(tmp_path)


def test_torch_that_mmcv_does_not_compile_against():
    compile_mmcv.check_torch('2.13.0+cu130')
    for version in ('2.14.1', '2.14.0+cpu', '3.0.0'):
        with pytest.raises(checks.SetupError, match=f'OPS=compile: torch {re.escape(version)} needs C.{{2}}20'):
            compile_mmcv.check_torch(version)


def test_no_disk_space(tmp_path, monkeypatch):
    monkeypatch.setattr(checks.shutil, 'disk_usage', lambda path: SimpleNamespace(free=7_000_123))
    with pytest.raises(checks.SetupError, match=r'[\d,]{13} bytes are needed in .* and 7,000,123 are free'):
        install.set_up(new_environment(tmp_path / 'venv'))
    assert not (tmp_path / 'venv').exists()


@pytest.mark.parametrize('kind', ['cpu', 'cuda'])
def test_disk_space_is_summed_for_one_disk(tmp_path, monkeypatch, kind):
    disk = SimpleNamespace(free=sum(checks.NEEDED[kind]))
    monkeypatch.setattr(checks.tempfile, 'tempdir', str(tmp_path))
    monkeypatch.setattr(checks.shutil, 'disk_usage', lambda path: disk)
    checks.check_disk(tmp_path / 'not' / 'yet', kind)
    disk.free -= 1
    with pytest.raises(checks.SetupError, match='too little disk space'):
        checks.check_disk(tmp_path / 'not' / 'yet', kind)


def test_no_package_index(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith('PIP_')]:
        monkeypatch.delenv(name)
    nowhere = dict(PIP_CONFIG_FILE=os.devnull, PIP_INDEX_URL='http://127.0.0.1:9/simple', PIP_RETRIES='1')
    line = run_install(tmp_path / 'venv', **nowhere)
    assert 'no package index answers' in line and str(tmp_path / 'venv' / 'mmfocal-install.log') in line


@pytest.mark.parametrize(
    'output, why',
    [
        ('OSError: [Errno 28] No space left on device', 'the disk is full: '),
        ('c++: fatal error: Killed signal terminated program cc1plus', 'MAX_JOBS=1'),
        ('ERROR: x (from versions: 8)\nERROR: No matching distribution found for torch==9', 'found for torch==9'),
        ('ERROR: x (from versions: none)\nERROR: No matching distribution found for torch==9', 'or none answers'),
        ('a.cpp:1:2: error: bad thing\nninja: stopped\nerror: subprocess-exited-with-error', 'bad thing'),
        ('first\nlast', 'last'),
        ('', 'it said nothing'),
    ],
)
def test_reason(output, why):
    assert why in checks.reason(output)


def test_two_set_ups_of_a_clone_wait_for_each_other(tmp_path):
    script = ROOT / 'tools' / 'install' / 'install.py'
    with open(script) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [sys.executable, script, '--venv', tmp_path / 'venv', '--ops', 'compile']
        second = subprocess.Popen(
            command, env={'CXX': 'absent'}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert second.stdout.readline() == 'waiting for another set-up of this clone\n'
    assert 'no C++17 compiler: `absent`' in second.communicate()[1]


# The environment.


def test_environment_that_cannot_serve(tmp_path):
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'thesis.tex').touch()
    with pytest.raises(checks.SetupError, match='neither empty nor a Python environment'):
        new_environment(tmp_path / 'full')
    script(tmp_path / 'old' / 'bin' / 'python', 'echo 3.9')
    with pytest.raises(checks.SetupError, match='holds Python 3.9, but 3.10 to 3.13 is needed'):
        new_environment(tmp_path / 'old')
    (tmp_path / 'gone' / 'bin').mkdir(parents=True)
    (tmp_path / 'gone' / 'bin' / 'python').symlink_to(tmp_path / 'removed')
    with pytest.raises(checks.SetupError, match='does not run any more; remove'):
        new_environment(tmp_path / 'gone')


@pytest.fixture
def users_environment(tmp_path):
    """An environment that the user made, whose torch is 2.8.0 with CUDA."""
    venv.create(tmp_path / 'own', with_pip=False)
    env = new_environment(tmp_path / 'own')
    for name, version in (('torch', '2.8.0+cu128'), ('sympy', '1.13.3'), ('setuptools', '75.0.0')):
        folder = next(env.folder.glob('lib/python3.*/site-packages')) / f'{name}-{version}.dist-info'
        folder.mkdir()
        (folder / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n')
    return env


def test_users_torch_stays(users_environment):
    env = users_environment
    assert install.choose_torch(env.packages()['torch'], '', env.state) is None
    assert install.choose_torch(env.packages()['torch'], '2.8.0', env.state) is None
    lines = install.wanted(env, 'openmmlab')
    assert [line for line in lines if line.startswith('torch')] == ['torch==2.8.0+cu128']  # and no torchvision's pin
    # What is there only has to be in the range; what is missing comes as tested.
    assert not any(line.startswith('sympy') for line in lines)
    assert [line for line in lines if line.startswith('setuptools')] == ['setuptools>=66.1,<82']
    assert install.PINS['numpy'] in lines and install.PINS['mmdet'] in lines
    with pytest.raises(checks.SetupError, match='TORCH=2.9.0: the environment has torch 2.8.0.cu128, which stays'):
        install.set_up(env, '2.9.0')


@pytest.mark.parametrize(
    'present, wish, state, spec',
    [
        (None, '', {'default': True}, install.PINS['torch']),
        (None, '2.8.0', {'default': False}, 'torch==2.8.0'),
        (None, 'torch<2.9 --index-url URL', {'default': False}, 'torch<2.9 --index-url URL'),
        ('2.8.0', 'torch<2.9 --index-url URL', {'default': False, 'torch': 'torch<2.9 --index-url URL'}, None),
        ('2.8.0', '', {'default': False, 'torch': 'torch==2.8.0'}, None),
        ('2.1.0', '', {'default': True, 'torch': 'torch==2.1.0'}, install.PINS['torch']),
    ],
)
def test_choose_torch(present, wish, state, spec):
    assert install.choose_torch(present, wish, state) == spec


def test_default_environment_gets_the_pins():
    versions = {'torch': install.PINS['torch'].removeprefix('torch==') + '+cpu'}
    env = SimpleNamespace(packages=lambda: versions, state={'default': True}, version=(3, 11))
    pins = [line for name, line in install.PINS.items() if name != 'torch']
    assert install.wanted(env, 'openmmlab') == [install.PINS['torch'] + '+cpu', *pins]
    versions['triton'] = '3.5.0'  # which that torch brought
    assert install.wanted(env, 'openmmlab') == [
        install.PINS['torch'] + '+cpu',
        *(line for line in pins if not line.startswith('triton')),
    ]


def test_nothing_is_done_twice(users_environment, capsys):
    env = users_environment
    env.note(done=install.fingerprint(env.packages()))
    install.set_up(new_environment(env.folder))
    assert capsys.readouterr().out == ''
    assert install.fingerprint(env.packages() | {'torch': '2.9.0'}) != env.state['done']


def test_pip_shows_progress_and_keeps_all_output(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(environment, 'HEARTBEAT', 0.2)
    script(
        tmp_path / 'bin' / 'python',
        'case "$*" in *version_info*) echo 3.11;;\n'
        '*failing*) echo "error: oh"; exit 1;; *killed*) kill -9 $$;;\n'
        '*) echo "  [5/77] c++ x.cpp"; sleep 1; echo "  [77/77] c++ y.cpp";; esac',
    )
    env = new_environment(tmp_path)
    env.pip('compiling', 'wheel')
    assert 'compiling: 5 of 77 files, 0 min 0' in capsys.readouterr().out
    assert '[77/77] c++ y.cpp' in env.log.read_text()
    with pytest.raises(checks.SetupError, match=f'compiling failed: oh .all output: {env.log}'):
        env.pip('compiling', 'failing')
    with pytest.raises(checks.SetupError, match='compiling failed: ended by signal 9'):
        env.pip('compiling', 'killed')


def test_opencv_without_windows_where_libgl_is_missing(capsys):
    packages, commands = {'opencv-python': '5.0.0.93'}, []

    def pip(what, *args):
        commands.append(args)
        if args[0] == 'uninstall':
            packages.clear()

    complaint = 'ImportError: libGL.so.1: cannot open'
    env = SimpleNamespace(packages=lambda: packages, pip=pip, ask=lambda code: (len(packages), '', complaint))
    install.repair_opencv(env)
    assert [args[0] for args in commands] == ['uninstall', 'install']
    assert commands[1][-1] == 'opencv-python-headless==5.0.0.93'
    assert 'libGL.so.1: cannot open' in capsys.readouterr().out
    install.repair_opencv(env)
    assert len(commands) == 2
    env.ask = lambda code: (1, '', 'ImportError: libc.so')
    with pytest.raises(checks.SetupError, match='OpenCV cannot be imported .ImportError: libc.so'):
        install.repair_opencv(env)


def test_python_3_10_gets_what_pip_chooses():
    env = SimpleNamespace(packages=dict, state={'default': True}, version=(3, 10))
    lines = install.wanted(env, 'openmmlab')
    assert 'numpy>=1.26,<3' in lines and 'mmcv-lite==2.1.0' in lines and install.PINS['numpy'] not in lines


def test_compiled_mmcv_stays():
    env = SimpleNamespace(packages=lambda: {'mmcv': '2.1.0'}, state={'default': True}, version=(3, 11))
    assert not any(line.startswith('mmcv') for line in install.wanted(env, 'openmmlab'))


def test_torchvision_follows_the_torch_that_is_there(capsys):
    commands = []

    def pip(what, *args):
        commands.append(args)
        if fails:
            raise checks.SetupError('installing torchvision failed: no matching distribution')

    versions = {'torch': '2.8.0+cu128'}
    env = SimpleNamespace(packages=lambda: versions, state={'default': False}, version=(3, 11), pip=pip)
    assert not {environment.package(line) for line in install.wanted(env, 'openmmlab')} & set(install.FOLLOWERS)
    fails = False
    install.install_followers(env)
    assert commands[0][-3] == 'torch==2.8.0+cu128' and commands[0][-1] == 'torchvision'
    fails = True
    install.install_followers(env)
    assert 'no torchvision for torch 2.8.0+cu128: classification does not work here' in capsys.readouterr().out
    versions |= {'torchvision': '0.23.0', 'timm': '1.0.20'}
    install.install_followers(env)
    assert len(commands) == 2  # nothing is left to install


def test_the_other_stack():
    env = SimpleNamespace(packages=dict, state={'default': True}, version=(3, 11))
    lines = install.wanted(env, 'onedl')
    names = {environment.package(line) for line in lines}
    assert {'onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection', 'onedl-mmsegmentation', 'numpy', 'pytest'} <= names
    assert not names & {'mmengine', 'mmcv', 'mmcv-lite', 'mmdet', 'mmsegmentation'}
    assert install.PINS['numpy'] not in lines  # the forks need an older one
    with pytest.raises(checks.SetupError, match='venv holds mmengine, and STACK=onedl has the same modules'):
        install.check_stack('venv', {'mmengine': '0.10.7'}, 'onedl')
    with pytest.raises(checks.SetupError, match='venv holds onedl-mmcv, and STACK=openmmlab has the same modules'):
        install.check_stack('venv', {'onedl-mmcv': '2.3.6'}, 'openmmlab')
    install.check_stack('venv', {'onedl-mmcv': '2.3.6'}, 'onedl')
    assert install.fingerprint({}, 'onedl') != install.fingerprint({})


@pytest.mark.parametrize(
    'options, error',
    [
        (['--stack', 'oneld'], 'STACK=oneld: unknown; choose openmmlab or onedl'),
        (['--ops', 'copmile'], 'OPS=copmile: unknown; choose compile'),
        (['--stack', 'onedl', '--ops', 'compile'], 'OPS=compile: OneDL has compiled wheels of its own'),
    ],
)
def test_choices_that_cannot_be_had(options, error, tmp_path):
    assert run_install(tmp_path / 'venv', *options).startswith(f'mmfocal set-up: {error}')
    assert not (tmp_path / 'venv').exists()


# MMCV's operators.


@pytest.mark.parametrize(
    'gpus, cuda, nvcc, ops, why',
    [
        ([], None, '', 'cpu', ''),
        ([], '13.0', 'Cuda compilation tools, release 13.0, V13.0.48', 'cpu', ''),
        (['9.0'], '13.0', 'Cuda compilation tools, release 13.1, V13.1.48', 'cuda-13.0-sm-9.0', ''),
        (['9.0'], '13.0', '', 'cpu', 'there is no nvcc: MMCV gets CPU operators only'),
        (['9.0'], '13.0', 'Cuda compilation tools, release 12.8, V12.8.61', 'cpu', 'nvcc is that of CUDA 12:'),
    ],
)
def test_choose_ops(gpus, cuda, nvcc, ops, why):
    chosen, said = compile_mmcv.choose_ops(gpus, cuda, nvcc)
    assert chosen == ops and why in said and bool(said) == bool(why)


@pytest.fixture
def mmcv(tmp_path, monkeypatch):
    """compile_mmcv, with what is compiled and installed only noted down; `broken` says what fails."""
    seen = SimpleNamespace(compiled=[], installed=[], broken=set(), gpu=([], None, ''))

    def compile_wheel(env, pin, kind, folder):
        seen.compiled.append((env.packages()['torch'], kind))
        if kind in seen.broken:
            raise checks.SetupError(f'{kind} does not compile')
        wheel = Path(folder, 'mmcv-2.1.0-py3-none-any.whl')
        wheel.write_text(env.packages()['torch'])
        return wheel

    monkeypatch.setenv('PIP_CACHE_DIR', str(tmp_path / 'cache'))
    monkeypatch.delenv('PIP_NO_CACHE_DIR', raising=False)
    monkeypatch.setattr(compile_mmcv, 'look_for_gpu', lambda env: seen.gpu)
    monkeypatch.setattr(compile_mmcv, 'compile_wheel', compile_wheel)
    monkeypatch.setattr(compile_mmcv, 'install_wheel', lambda env, whl: seen.installed.append(whl.read_text()))
    monkeypatch.setattr(compile_mmcv, 'fault', lambda env, *kind: seen.installed[-1] in seen.broken and 'broken')

    def set_up(torch):
        state = {}
        env = SimpleNamespace(
            packages=lambda: {'torch': torch},
            python=sys.executable,
            state=state,
            note=state.update,
            ask=lambda code: (0, 'cpython-311', ''),
            pip=lambda *args: None,
        )
        compile_mmcv.compile_mmcv(env, 'mmcv==2.1.0')
        return state['mmcv']

    seen.set_up = set_up
    return seen


def test_mmcv_is_compiled_once_for_each_torch(mmcv):
    for torch in ('2.13.0+cpu', '2.13.0+cpu', '2.13.0+cu130', '2.13.0+cpu'):
        assert f'torch-{torch}-cpu' in mmcv.set_up(torch)
    assert mmcv.compiled == [('2.13.0+cpu', 'cpu'), ('2.13.0+cu130', 'cpu')]
    assert mmcv.installed == ['2.13.0+cpu', '2.13.0+cpu', '2.13.0+cu130', '2.13.0+cpu']


def test_mmcv_that_does_not_work_is_compiled_anew(mmcv, tmp_path):
    mmcv.set_up('2.13.0')
    (kept,) = (tmp_path / 'cache').rglob('*.whl')
    kept.write_text('damaged')
    mmcv.broken.add('damaged')
    mmcv.set_up('2.13.0')
    assert len(mmcv.compiled) == 2 and mmcv.installed[1:] == ['damaged', '2.13.0']
    assert kept.read_text() == '2.13.0'
    mmcv.broken.add('2.14.0')
    with pytest.raises(checks.SetupError, match='its operators do not work'):
        mmcv.set_up('2.14.0')
    assert len(list((tmp_path / 'cache').rglob('*.whl'))) == 1


def test_mmcv_works_without_a_folder_to_keep_it_in(mmcv, tmp_path, capsys):
    (tmp_path / 'cache').mkdir()
    (tmp_path / 'cache' / 'mmfocal').touch()
    assert mmcv.set_up('2.13.0') and mmcv.installed
    assert 'not kept for a later set-up' in capsys.readouterr().out


def test_mmcv_falls_back_to_cpu_operators(mmcv, tmp_path, capsys):
    mmcv.gpu = (['9.0'], '13.0', 'release 13.0')
    mmcv.broken.add('cuda-13.0-sm-9.0')
    mmcv.set_up('2.13.0')
    assert [kind for _, kind in mmcv.compiled] == ['cuda-13.0-sm-9.0', 'cpu']
    assert 'MMCV gets CPU operators only' in capsys.readouterr().out
    assert not list((tmp_path / 'cache').rglob('*.whl'))
