"""The machine and the software that a measurement was made with."""

import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ('torch', 'triton', 'mmengine', 'mmcv', 'mmdet', 'mmsegmentation', 'timm', 'torchvision')


def environment(device: str) -> dict[str, Any]:
    """Returns date, command, commit, hardware, threads and package versions; `device` is 'cpu' or 'cuda'."""
    return dict(
        date=time.strftime('%Y-%m-%d %H:%M:%S %z'),
        command=' '.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        commit=git_commit(),
        device=torch.cuda.get_device_name() if device == 'cuda' else 'CPU',
        cpu=cpu_name(),
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        packages=package_versions(),
    )


def describe(environment: dict[str, Any]) -> str:
    """Formats an environment as two lines."""
    packages = ', '.join(f'{name} {version}' for name, version in environment['packages'].items() if version)
    gpu = '' if environment['device'] == 'CPU' else f'{environment["device"]}; '
    commit = environment['commit'] or 'unknown'
    return f'{gpu}{environment["cpu"]}, {environment["threads"]} threads; commit {commit}\n{packages}'


def package_versions() -> dict[str, str | None]:
    """Returns the installed version of each of `PACKAGES`, None where it is not installed."""
    versions: dict[str, str | None] = dict.fromkeys(PACKAGES)
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def cpu_name() -> str:
    """Returns the CPU's model name."""
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(':')[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or 'unknown'


def git_commit() -> str | None:
    """Returns this project's commit, with `-dirty` if files have changed since; None outside a clone."""
    describe = [
        'git',
        '-C',
        str(Path(__file__).parent),
        'describe',
        '--always',
        '--dirty',
        '--abbrev=12',
        '--exclude=*',
    ]
    try:
        done = subprocess.run(describe, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None
