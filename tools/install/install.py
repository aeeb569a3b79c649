"""Set-up of the environment: torch, OpenMMLab's libraries, MMCV compiled against that torch, and mmfocal.

The Makefile runs it before everything else, with the environment's Python or, before there is one, any
Python 3.11 or 3.12: so it needs the standard library only. A second run finds all done and returns at once.
"""

import argparse
import fcntl
import hashlib
import json
import os
import shlex
import sys
import sysconfig
import tempfile
from pathlib import Path

from checks import SetupError, check_compiler, check_disk, check_headers
from environment import Environment, package, say
from mmcv_ops import install_mmcv

ROOT = Path(__file__).resolve().parents[2]


def main():
    parser = argparse.ArgumentParser(description='Set up the environment that the Makefile uses.')
    parser.add_argument('--venv', default='.venv', help='the environment, made if it is not there (.venv)')
    parser.add_argument('--torch', default='', help='torch of a new environment: a version or what pip takes')
    args = parser.parse_args()
    with open(__file__, 'a') as lock:  # NFS locks only what may be written
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say('waiting for another set-up of this clone')
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            set_up(Environment(Path(args.venv).absolute()), args.torch.strip())
        except SetupError as error:
            sys.exit(f'mmfocal set-up: {error}')
        except KeyboardInterrupt:
            sys.exit('mmfocal set-up: interrupted; the next one goes on from here')


def set_up(env, wish):
    """Brings the environment to what mmfocal needs; returns at once where that has been done.

    Args:
        env: The Environment.
        wish: Torch for it, a version or what pip takes; empty for the pin of requirements/tested.txt.
    """
    versions = env.packages()
    spec = choose_torch(versions.get('torch'), wish, env.state)
    if not spec and env.state.get('done') == fingerprint(versions):
        return
    say(
        f"Setting up {env.folder}: torch, OpenMMLab's libraries, and MMCV compiled against that torch.\n"
        'On 2 cores that takes 10 minutes the first time, 2 where the same MMCV has been compiled before.'
    )
    if 'mmcv' not in versions:
        check_compiler()
        check_headers(sysconfig.get_path('include'))
    if not env.exists:
        check_disk(env.folder, 'cpu')
        env.make()
        env.note(default=not wish)
    os.environ.update(PIP_DISABLE_PIP_VERSION_CHECK='1', PIP_NO_INPUT='1', PIP_PROGRESS_BAR='off', PIP_USER='0')
    say('1/5 tools to build with')
    if 'pip' not in env.packages():
        env.ask('import ensurepip; ensurepip.bootstrap()')
    tools = [line for line in wanted(env) if package(line) in ('setuptools', 'wheel', 'ninja')]
    env.pip('installing them', 'install', *tools)
    if spec:
        say(f'2/5 {spec}')
        install_torch(env, spec)
    say("3/5 OpenMMLab's libraries and what they need")
    env.pip('installing them', 'install', *wanted(env))
    repair_opencv(env)
    say(f'4/5 {PINS["mmcv"]}')
    install_mmcv(env, PINS['mmcv'])
    say('5/5 mmfocal')
    env.pip('installing it', 'install', '--no-deps', '--no-build-isolation', '--editable', ROOT)
    env.note(done=fingerprint(env.packages()))


def requirements(name):
    """Returns {package: requirement} of requirements/NAME.txt."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    return {package(line): line for line in lines if line and not line.startswith('#')}


PINS = requirements('tested')


def wanted(env):
    """Returns what pip is to install beside torch and MMCV: the pins of requirements/tested.txt.

    Where another torch was chosen, or the environment is not ours, what is there stays if mmfocal can use its
    version, and only what is missing comes in the tested one.
    """
    versions, lines = env.packages(), list(PINS.values())
    torch = versions.get('torch')
    if not env.state['default'] or torch and PINS['torch'] != f'torch=={torch.split("+")[0]}':
        lines = [line for name in ('runtime', 'mminstall', 'tests') for line in requirements(name).values()]
        lines += [line for name, line in PINS.items() if name not in versions]
    # a torch for GPUs brings the Triton that it needs; one for CPUs none, and the tests run Triton's interpreter
    kept = ('torch', 'mmcv', *(['triton'] if 'triton' in versions else []))
    lines = [line for line in lines if package(line) not in kept]
    return [f'torch=={torch}', *lines] if torch else lines


def fingerprint(versions):
    """Returns a short form of what a set-up depends on: when that changes, it is gone through again."""
    files = [*sorted((ROOT / 'requirements').glob('*.txt')), ROOT / 'setup.cfg', ROOT / 'pyproject.toml']
    parts = [file.read_text() for file in files] + [f'{ROOT} {versions.get("torch")} {versions.get("mmcv")}']
    return hashlib.sha256('\n'.join(parts).encode()).hexdigest()


def choose_torch(present, wish, state):
    """Returns what pip is to install as torch, or None: a torch that is there stays.

    Only in an environment of our own with the pinned torch, a pin that has moved is followed.
    """
    spec = PINS['torch'] if not wish else f'torch=={wish}' if wish[0].isdigit() else wish
    if not present or not wish and state['default'] and state.get('torch', spec) != spec:
        return spec
    if wish and state.get('torch') != spec and wish not in (present, present.split('+')[0]):
        raise SetupError(
            f'torch {present} is there and stays, so TORCH={wish} cannot be had; TORCH chooses the torch of '
            'a new environment: `make clean` first, or another VENV'
        )
    return None


def install_torch(env, spec):
    """Installs torch, if there is room for what comes with it."""
    command = ['install', *shlex.split(spec)]
    with tempfile.TemporaryDirectory() as folder:
        if env.state['default']:
            constraints = Path(folder, 'constraints.txt')
            constraints.write_text('\n'.join(line for name, line in PINS.items() if name != 'triton'))
            command += ['--constraint', constraints]
        report = Path(folder, 'report.json')
        env.pip('looking for torch', *command, '--dry-run', '--quiet', '--report', report)
        coming = [package(one['metadata']['name']) for one in json.loads(report.read_text())['install']]
        check_disk(env.folder, 'cuda' if any(name.startswith('nvidia-') for name in coming) else 'cpu')
        env.pip('installing torch', *command)
    env.note(torch=spec)


def repair_opencv(env):
    """Takes OpenCV's build without windows where the usual one lacks a library of the system's (libGL)."""
    code, _, complaint = env.ask('import cv2')
    version = env.packages().get('opencv-python')
    if code and version:
        say(f'    {complaint}: taking OpenCV without windows')
        env.pip('removing OpenCV', 'uninstall', '-y', 'opencv-python')
        env.pip('installing OpenCV', 'install', '--no-deps', '--force-reinstall', f'opencv-python-headless=={version}')
        code, _, complaint = env.ask('import cv2')
    if code:
        raise SetupError(f'OpenCV cannot be imported ({complaint})')


if __name__ == '__main__':
    main()
