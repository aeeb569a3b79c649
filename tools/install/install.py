"""Set-up of the environment: torch, OpenMMLab's libraries and mmfocal, all of them wheels.

The Makefile runs it before everything else, with the environment's Python or, before there is one, any supported
Python: so it needs the standard library only. A second run finds everything done and returns at once.
"""

import argparse
import fcntl
import hashlib
import json
import os
import shlex
import sys
import tempfile
from pathlib import Path

from checks import SetupError, check_disk
from compile_mmcv import check_tools, check_torch, compile_mmcv
from environment import Environment, package, say

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = (3, 10), (3, 13)
ORIGINALS = 'mmengine', 'mmcv-lite', 'mmcv', 'mmdet', 'mmsegmentation', 'mmpretrain'
FOLLOWERS = 'torchvision', 'timm'  # need the torchvision that fits the torch


def main():
    parser = argparse.ArgumentParser(description='Set up the environment that the Makefile uses.')
    parser.add_argument('--venv', default='.venv', help='the environment, created if it does not exist (.venv)')
    parser.add_argument('--torch', default='', help='torch of a new environment: a version or what pip takes')
    parser.add_argument('--stack', default='openmmlab', help="openmmlab, or onedl for OneDL's forks of its libraries")
    parser.add_argument('--ops', default='', help='compile: compile the operators of MMCV')
    args = parser.parse_args()
    with open(__file__, 'a') as lock:  # NFS locks only what may be written
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say('waiting for another set-up of this clone')
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            check_choices(args.stack, args.ops)
            set_up(Environment(Path(args.venv).absolute(), PYTHONS), args.torch.strip(), args.stack, args.ops)
        except SetupError as error:
            sys.exit(f'mmfocal set-up: {error}')
        except KeyboardInterrupt:
            sys.exit('mmfocal set-up: interrupted; the next run continues from here')


def check_choices(stack, ops):
    """Raises SetupError if the two cannot be had, or not together."""
    if stack not in ('openmmlab', 'onedl'):
        raise SetupError(f'STACK={stack}: unknown; choose openmmlab or onedl')
    if ops not in ('', 'compile'):
        raise SetupError(f'OPS={ops}: unknown; choose compile, or leave it out for operators without a compiler')
    if ops and stack == 'onedl':
        raise SetupError('OPS=compile: OneDL has compiled wheels of its own; see its documentation, or leave OPS out')


def set_up(env, wish='', stack='openmmlab', ops=''):
    """Brings the environment to what mmfocal needs; returns at once if that has been done.

    Args:
        env: The Environment.
        wish: Torch for it, a version or what pip takes; empty for the pin of requirements/tested.txt.
        stack: Whose libraries: 'openmmlab' or 'onedl'.
        ops: 'compile' to compile MMCV against that torch, empty to leave MMCV as it is or install mmcv-lite.
    """
    versions = env.packages()
    check_stack(env.folder, versions, stack)
    spec = choose_torch(versions.get('torch'), wish, env.state)
    if not spec and env.state.get('done') == fingerprint(versions, stack) and (not ops or 'mmcv' in versions):
        return
    say(f"Setting up {env.folder}: torch, {'OneDL' if stack == 'onedl' else 'OpenMMLab'}'s libraries, mmfocal")
    if ops:
        check_tools()
    if not env.exists:
        check_disk(env.folder, 'cpu')
        env.make()
        env.note(default=not wish)
    os.environ.update(PIP_DISABLE_PIP_VERSION_CHECK='1', PIP_NO_INPUT='1', PIP_PROGRESS_BAR='off', PIP_USER='0')
    if 'pip' not in env.packages():
        env.ask('import ensurepip; ensurepip.bootstrap()')
    if spec:
        say(f'1/3 {spec}')
        install_torch(env, spec)
    if ops:
        check_torch(env.packages()['torch'])
    say('2/3 the libraries')
    env.pip('installing the libraries', 'install', *wanted(env, stack))
    install_followers(env)
    repair_opencv(env)
    if ops:
        say(f'    {MMCV}, compiled')
        if 'mmcv-lite' in env.packages():
            env.pip('removing mmcv-lite', 'uninstall', '-y', 'mmcv-lite')
        compile_mmcv(env, MMCV)
    say('3/3 mmfocal')
    env.pip('installing it', 'install', '--no-deps', '--no-build-isolation', '--editable', ROOT)
    env.note(done=fingerprint(env.packages(), stack))


def requirements(name):
    """Returns {package: requirement} of requirements/NAME.txt."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    return {package(line): line for line in lines if line and not line.startswith('#')}


PINS = requirements('tested')
MMCV = PINS['mmcv-lite'].replace('-lite', '')


def wanted(env, stack):
    """Returns what pip is to install beside torch: the pins of requirements/tested.txt.

    If another torch was chosen, or the environment is not ours, what is there stays if mmfocal can use its version,
    and only what is missing comes as pinned. Python 3.10, for which some pins do not exist, and OneDL's forks get what
    pip chooses.
    """
    versions, lines = env.packages(), list(PINS.values())
    torch = versions.get('torch')
    if stack == 'onedl':  # the forks need other versions
        lines = [line for line in ranges() if package(line) not in ORIGINALS] + list(requirements('onedl').values())
    elif env.version < (3, 11):
        lines = ranges()
    elif not env.state['default'] or torch and PINS['torch'] != f'torch=={torch.split("+")[0]}':
        lines = ranges() + [line for name, line in PINS.items() if name not in versions]
    kept = ['torch']
    if 'triton' in versions:  # a torch for GPUs brings the one that it needs
        kept.append('triton')
    if 'mmcv' in versions:  # compiled: the same modules as mmcv-lite's, and the operators
        kept.append('mmcv-lite')
    if torch and PINS['torch'] != f'torch=={torch.split("+")[0]}':  # each torchvision fits one torch only
        kept += FOLLOWERS
    lines = [line for line in lines if package(line) not in kept]
    return [f'torch=={torch}', *lines] if torch else lines


def ranges():
    """Returns the requirements that do not pin."""
    return [
        line for name in ('runtime', 'mminstall', 'optional', 'tests', 'lint') for line in requirements(name).values()
    ]


def fingerprint(versions, stack='openmmlab'):
    """Returns a short form of what a set-up depends on: if that changes, it is repeated."""
    files = [*sorted((ROOT / 'requirements').glob('*.txt')), ROOT / 'setup.cfg', ROOT / 'pyproject.toml']
    parts = [file.read_text() for file in files] + [f'{ROOT} {stack} {versions.get("torch")} {versions.get("mmcv")}']
    return hashlib.sha256('\n'.join(parts).encode()).hexdigest()


def check_stack(folder, versions, stack):
    """Raises SetupError if the environment holds the other stack, whose modules have the same names."""
    others = ORIGINALS if stack == 'onedl' else [f'onedl-{name}' for name in ('mmengine', 'mmcv', 'mmdetection')]
    for name in others:
        if name in versions:
            raise SetupError(
                f'{folder} holds {name}, and STACK={stack} has the same modules; choose another place with VENV=PATH'
            )


def choose_torch(present, wish, state):
    """Returns what pip is to install as torch, or None: a torch that is there stays.

    Only in an environment of our own with the pinned torch, a pin that has moved is followed.
    """
    spec = PINS['torch'] if not wish else f'torch=={wish}' if wish[0].isdigit() else wish
    if not present or not wish and state['default'] and state.get('torch', spec) != spec:
        return spec
    if wish and state.get('torch') != spec and wish not in (present, present.split('+')[0]):
        raise SetupError(
            f'TORCH={wish}: the environment has torch {present}, which stays; run `make clean` first, or choose '
            'another VENV'
        )
    return None


def install_torch(env, spec):
    """Installs torch, if there is room for what comes with it."""
    command = ['install', *shlex.split(spec)]
    with tempfile.TemporaryDirectory() as folder:
        if env.state['default'] and env.version >= (3, 11):
            constraints = Path(folder, 'constraints.txt')
            constraints.write_text('\n'.join(line for name, line in PINS.items() if name != 'triton'))
            command += ['--constraint', constraints]
        report = Path(folder, 'report.json')
        env.pip('looking for torch', *command, '--dry-run', '--quiet', '--report', report)
        coming = [package(one['metadata']['name']) for one in json.loads(report.read_text())['install']]
        check_disk(env.folder, 'cuda' if any(name.startswith('nvidia-') for name in coming) else 'cpu')
        env.pip('installing torch', *command)
    env.note(torch=spec)


def install_followers(env):
    """Installs torchvision for another torch than the tested one; without it, all but classification works."""
    versions = env.packages()
    lines = [line for line in requirements('tests').values() if package(line) in FOLLOWERS]
    if all(package(line) in versions for line in lines):
        return
    try:
        env.pip(
            'installing torchvision', 'install', '--only-binary', 'torchvision', f'torch=={versions["torch"]}', *lines
        )
    except SetupError as error:
        say(f'    no torchvision for torch {versions["torch"]}: classification does not work here ({error})')


def repair_opencv(env):
    """Installs OpenCV's build without windows if the usual one lacks a library of the system's (libGL)."""
    code, _, complaint = env.ask('import cv2')
    version = env.packages().get('opencv-python')
    if code and version:
        say(f'    {complaint}: installing OpenCV without windows')
        env.pip('removing OpenCV', 'uninstall', '-y', 'opencv-python')
        env.pip('installing OpenCV', 'install', '--no-deps', '--force-reinstall', f'opencv-python-headless=={version}')
        code, _, complaint = env.ask('import cv2')
    if code:
        raise SetupError(f'OpenCV cannot be imported ({complaint})')


if __name__ == '__main__':
    main()
