"""The Makefile, the package and its requirements."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]


def script(path, text):
    """Writes an executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\n{text}\n')
    path.chmod(0o755)
    return path


def make(*args):
    """Runs make in the repository, as from a shell of its own."""
    ours = (
        'MAKEFLAGS',
        'MAKELEVEL',
        'MAKEOVERRIDES',
        'MFLAGS',
        'VENV',
        'TORCH',
        'SEED',
        'STACK',
        'OPS',
        'PYTEST_OPTIONS',
    )
    env = {name: value for name, value in os.environ.items() if name not in ours}
    command = ['make', '-C', ROOT, '--no-print-directory', *args]
    return subprocess.run(command, env=env, capture_output=True, text=True)


def requirements(name):
    """Returns {package: Requirement} of requirements/NAME.txt."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    found = [Requirement(line) for line in lines if not line.startswith('#')]
    return {one.name.lower(): one for one in found}


def test_make_takes_the_first_python_that_runs(tmp_path):
    venv = tmp_path / 'none'
    shim = script(tmp_path / 'shim', 'echo "pyenv: python3.12: command not found" >&2; exit 127')
    old = script(tmp_path / 'old', 'case $1 in -c) exit 1;; *) echo old;; esac')
    good = script(tmp_path / 'good', f'case $1 in -c) exec {sys.executable} "$@";; *) echo good "$@";; esac')
    done = make('install', f'VENV={venv}', f'PYTHON={shim} {old} {good} {good}', 'TORCH=2.8.0')
    command = f'good tools/install/install.py --venv {venv} --torch 2.8.0'
    assert done.stdout == f'{command} --stack openmmlab --ops \n'
    done = make('install', f'VENV={venv}', f'PYTHON={shim} {old}')
    assert done.returncode
    assert 'mmfocal set-up: none of these is Python 3.10 to 3.13: ' in done.stderr


@pytest.mark.parametrize('code, fails', [(0, False), (5, False), (1, True), (2, True)])
def test_make_test_slow(tmp_path, code, fails):
    script(tmp_path / 'bin' / 'python', f'case $1 in -m) echo "$@"; exit {code};; esac')
    done = make('test-slow', f'VENV={tmp_path}')
    assert done.stdout.endswith('-m pytest -q -m slow\n') and bool(done.returncode) == fails


def test_make_demo_passes_the_seed(tmp_path):
    script(tmp_path / 'bin' / 'python', 'case $1 in *demo.py) echo "$@";; esac')
    assert make('demo', f'VENV={tmp_path}', 'SEED=3').stdout.endswith('\ntools/demo.py --seed 3\n')


def test_package_builds(tmp_path):
    clone = tmp_path / 'clone'
    for name in ('mmfocal', 'requirements', 'configs', 'tools'):
        shutil.copytree(ROOT / name, clone / name, symlinks=True, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('setup.cfg', 'pyproject.toml', 'LICENSE', 'model-index.yml'):
        shutil.copy(ROOT / name, clone)
    (clone / 'mmfocal' / 'some.yaml').touch()
    files = {path.relative_to(clone) for path in (clone / 'mmfocal').rglob('*.*') if '.mim' not in path.parts}
    files |= {
        Path('mmfocal/.mim', path.relative_to(clone))
        for name in ('configs', 'tools')
        for path in (clone / name).rglob('*.*')
    }
    files |= {Path('mmfocal/.mim'), Path('mmfocal/.mim/model-index.yml')}  # links in the repository, files in a package
    pip = [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation']
    subprocess.run([*pip, '-w', tmp_path, clone], check=True)
    (wheel,) = tmp_path.glob('mmfocal-*.whl')
    shutil.unpack_archive(wheel, tmp_path / 'out', 'zip')
    out = tmp_path / 'out'
    assert {path.relative_to(out) for path in (out / 'mmfocal').rglob('*.*')} == files
    (metadata,) = out.glob('*.dist-info/METADATA')
    lines = metadata.read_text().splitlines()
    assert 'Requires-Python: <3.14,>=3.10' in lines
    extras = 'detection', 'segmentation', 'mmdet', 'mmseg', 'all', 'completion'
    needs = {
        extra: {
            Requirement(line[15:].split(';')[0])
            for line in lines
            if line.startswith('Requires-Dist: ') and line.endswith(end)
        }
        for extra, end in [('', ''), *((extra, f'"{extra}"') for extra in extras)]
    }
    assert needs[''] >= set(requirements('runtime').values())
    assert needs['detection'] | needs['segmentation'] == set(requirements('mminstall').values())
    assert needs['mmdet'] == needs['detection'] and needs['mmseg'] == needs['segmentation']
    assert needs['completion'] < needs['all']
    files = 'mminstall', 'optional'
    wanted = {Requirement(f'{one.name}{one.specifier}') for name in files for one in requirements(name).values()}
    assert needs['all'] == wanted  # less their markers


def test_tested_versions_are_exact_and_in_range():
    tested = requirements('tested')
    for name, pin in tested.items():
        assert [one.operator for one in pin.specifier] == ['=='], name
        assert not name.startswith('nvidia'), name
    for file in ('runtime', 'mminstall', 'tests', 'optional', 'lint'):
        for name, one in requirements(file).items():
            (pin,) = tested[name].specifier
            assert pin.version in one.specifier, name


@pytest.mark.slow
def test_the_wheel_trains_in_an_empty_environment_without_a_compiler(tmp_path):
    """pip installs everything that `mmfocal[detection]` names; torch comes from where pip finds it."""
    clone, venv, empty = tmp_path / 'clone', tmp_path / 'venv', tmp_path / 'empty'
    for name in ('mmfocal', 'requirements', 'configs', 'tools'):
        shutil.copytree(ROOT / name, clone / name, symlinks=True, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('setup.cfg', 'pyproject.toml', 'LICENSE', 'README.md', 'model-index.yml'):
        shutil.copy(ROOT / name, clone)
    empty.mkdir()
    script(tmp_path / 'bin' / 'c++', 'echo "no compiler here" >&2; exit 1')
    for name in ('gcc', 'g++', 'cc'):
        script(tmp_path / 'bin' / name, 'echo "no compiler here" >&2; exit 1')
    environment = {name: value for name, value in os.environ.items() if name not in ('PYTHONPATH', 'SHAPES_ROOT')}
    environment |= {'PATH': f'{venv}/bin:{tmp_path}/bin:{environment["PATH"]}', 'SHAPES_ROOT': 'shapes'}

    def run(*command, cwd=empty):
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    run(sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '-w', tmp_path / 'dist', clone)
    (wheel,) = (tmp_path / 'dist').glob('mmfocal-*.whl')
    shutil.rmtree(clone)
    run(sys.executable, '-m', 'venv', venv)
    torch = str(requirements('tested')['torch'])
    run('pip', 'install', '-q', torch, f'mmfocal[detection] @ {wheel.as_uri()}')
    run('mmfocal', 'make-shapes', 'shapes', '--num-train', '4', '--num-val', '2', '--size', '64', '64')
    options = [
        f'{split}_dataloader.{key}' for split in ('train', 'val') for key in ('num_workers=0', 'persistent_workers=0')
    ]
    options += ['train_dataloader.batch_size=2', 'train_cfg.max_epochs=1', 'default_hooks.logger.interval=1']
    log = run('mmfocal', 'train', 'atss_focal_nano_shapes', '--cfg-options', *options)
    assert 'Epoch(train) [1][2/2]' in log
    assert (empty / 'work_dirs/atss_focal_nano_shapes/epoch_1.pth').is_file()
    Path(empty, 'mine.py').write_text("_base_ = 'mmfocal::atss_focal_tiny_3x.py'\n")
    assert (
        'COCO_ROOT'
        in subprocess.run(
            ['mmfocal', 'train', 'mine.py'], cwd=empty, env=environment, capture_output=True, text=True
        ).stderr
    )


@pytest.mark.parametrize('broken', ['', 'lint', 'test-slow', 'STACK=onedl', 'cov'])
def test_ci_runs_everything_and_fails_if_anything_does(tmp_path, broken):
    """With a make that only prints its arguments and fails where it is told to."""
    fails = f'case "$*" in *{broken}*) exit 2;; esac' if broken else ''
    make = script(tmp_path / 'make', f'echo "make $@"; {fails}')
    environment = os.environ | {'PATH': f'{make.parent}:{os.environ["PATH"]}'}
    done = subprocess.run(['bash', ROOT / '.ci' / 'run'], env=environment, capture_output=True, text=True)
    assert bool(done.returncode) == bool(broken)
    targets = [line.split()[1] for line in done.stdout.splitlines() if line.startswith('make ')]
    assert targets == ['install', 'lint', 'docs', 'test-slow', 'test-configs', 'test-cpus', 'test', 'test']
    assert done.stdout.splitlines()[-1].startswith('make test PYTEST_OPTIONS=-n 2 --dist loadfile --cov=mmfocal')
    assert ('FAILED: make' in done.stdout) == (broken not in ('', 'cov'))


def test_ci_stops_if_the_set_up_fails(tmp_path):
    make = script(tmp_path / 'make', 'echo "make $@"; exit 2')
    environment = os.environ | {'PATH': f'{make.parent}:{os.environ["PATH"]}'}
    done = subprocess.run(['bash', ROOT / '.ci' / 'run'], env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == 'make install\n'
