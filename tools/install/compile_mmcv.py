"""OPS=compile: MMCV with operators compiled against the environment's torch, instead of mmfocal.ops.mmcv_ops."""

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from checks import SetupError
from environment import say


def check_tools():
    """Raises SetupError if MMCV cannot be compiled for lack of a compiler or of Python's headers."""
    check_compiler()
    check_headers(sysconfig.get_path('include'))


def check_torch(version):
    """Raises SetupError if MMCV, which is written for C++17, cannot be compiled against this torch."""
    if tuple(map(int, version.split('.')[:2])) >= (2, 14):
        raise SetupError(
            f'OPS=compile: torch {version} needs C++20, for which MMCV is not written; leave OPS out, or choose an '
            'earlier one, TORCH=2.13.0, in a new environment'
        )


def check_compiler():
    """Raises SetupError if a C++17 source cannot be made into a shared library."""
    compiler = os.environ.get('CXX', 'c++')
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, 'try.cpp')
        source.write_text('#include <optional>\nstd::optional<int> answer() { return 42; }\n')
        command = [*shlex.split(compiler), '-std=c++17', '-shared', '-fPIC', source, '-o', f'{folder}/try.so']
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors='replace')
            fault = done.returncode and (done.stderr.splitlines() or [f'exit code {done.returncode}'])[0]
        except OSError as error:
            fault = error.strerror
    if fault:
        raise SetupError(
            f'no C++17 compiler: `{compiler}` does not compile ({fault}); install g++ (Debian, Ubuntu: '
            'apt install g++; Fedora: dnf install gcc-c++), name another one in CXX, or leave out OPS=compile'
        )


def check_headers(include):
    """Raises SetupError if Python's headers are not in the folder `include`."""
    if not Path(include, 'Python.h').is_file():
        python = 'python{}.{}'.format(*sys.version_info)
        raise SetupError(
            f'no Python headers: {include}/Python.h is missing, and MMCV is compiled with it; '
            f'install {python}-dev (Debian, Ubuntu) or {python}-devel (Fedora), or leave out OPS=compile'
        )


def compile_mmcv(env, pin):
    """Installs MMCV, compiling it where no earlier set-up did so for the same torch.

    pip's cache does not know which torch a wheel was compiled against, so it is not used: a wheel that works
    is kept beside it, in a folder named after that torch.

    Args:
        env: The Environment.
        pin: The requirement, `mmcv==VERSION`.
    """
    env.pip('installing tools to compile with', 'install', 'ninja', 'wheel')
    versions = env.packages()
    ops, why = choose_ops(*look_for_gpu(env))
    if why:
        say(f'    {why}')
    _, python, _ = env.ask('import sys; print(sys.implementation.cache_tag)')
    build = f'torch-{versions["torch"]}-{ops}-{python}-{platform.machine()}'
    if pin == f'mmcv=={versions.get("mmcv")}' and env.state.get('mmcv', build) == build and not fault(env):
        env.note(mmcv=build)
        return
    asked = subprocess.run([env.python, '-m', 'pip', 'cache', 'dir'], capture_output=True, text=True)
    kept = Path(asked.stdout.strip(), 'mmfocal', pin, build) if asked.stdout else None  # a user may have none
    for wheel in kept.glob('*.whl') if kept else ():
        install_wheel(env, wheel)
        if not fault(env):
            say('    compiled by an earlier set-up')
            env.note(mmcv=build)
            return
    for kind in dict.fromkeys((ops, 'cpu')):
        with tempfile.TemporaryDirectory() as folder:
            try:
                wheel = compile_wheel(env, pin, kind, folder)
                install_wheel(env, wheel)
                if wrong := fault(env, kind):
                    raise SetupError(f'MMCV is compiled, but its operators do not work ({wrong})')
            except SetupError as error:
                if kind == 'cpu':
                    raise
                say(f'    {error}; MMCV gets CPU operators only')
                continue
            env.note(mmcv=build)
            if kept and kind == ops:
                keep(wheel, kept)
            return


def keep(wheel, folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(wheel, folder / 'unfinished')
        os.replace(folder / 'unfinished', folder / wheel.name)
    except OSError as error:
        say(f'    MMCV works, but is not kept for a later set-up ({error})')


def look_for_gpu(env):
    """Returns the arguments of `choose_ops`."""
    code, printed, complaint = env.ask("""if True:
        import json, os, subprocess, torch
        from torch.utils.cpp_extension import CUDA_HOME
        gpus = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
        nvcc, said = os.path.join(CUDA_HOME or '', 'bin', 'nvcc'), ''
        if os.path.exists(nvcc):
            said = subprocess.run([nvcc, '--version'], capture_output=True, text=True).stdout
        gpus = sorted({'%d.%d' % torch.cuda.get_device_capability(gpu) for gpu in gpus})
        print(json.dumps([gpus, torch.version.cuda, said]))""")
    if code:
        raise SetupError(f'the torch of {env.folder} does not work ({complaint})')
    return json.loads(printed)


def choose_ops(gpus, cuda, nvcc):
    """Returns which operators MMCV gets, and why they are for the CPU only though torch sees a GPU.

    Args:
        gpus: Compute capabilities of the GPUs that torch sees, e.g. ['9.0'].
        cuda: CUDA version of torch, e.g. '13.0', or None.
        nvcc: What `nvcc --version` prints; empty where there is none.
    """
    if not gpus:
        return 'cpu', ''
    release = re.search(r'release (\d+)\.', nvcc)
    if release and release[1] == str(cuda).split('.')[0]:
        return f'cuda-{cuda}-sm-{"-".join(gpus)}', ''
    lack = f'nvcc is that of CUDA {release[1]}' if release else 'there is no nvcc'
    return 'cpu', (
        f'torch sees a GPU and has CUDA {cuda}, but {lack}: MMCV gets CPU operators only; for GPU '
        f'operators install the CUDA toolkit {cuda}, then `pip uninstall mmcv` and `make install OPS=compile`'
    )


def compile_wheel(env, pin, kind, folder):
    """Compiles MMCV against the environment's torch, with operators for 'cpu' or a GPU; returns the wheel."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    gigabytes = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9
    flags = '-O3 -g0 -DNDEBUG -fwrapv'  # Python's own flags ask for debugging symbols, which double the time
    jobs = max(1, min(cores, int(gigabytes)))  # a compiler takes 0.8 GB
    variables = dict(MAX_JOBS=str(jobs), CFLAGS=flags, CXXFLAGS=flags) | os.environ
    variables |= dict(MMCV_WITH_OPS='1', PATH=f'{env.python.parent}:{os.environ["PATH"]}')
    if kind == 'cpu':
        variables |= dict(FORCE_CUDA='0', CUDA_VISIBLE_DEVICES='')
    say(f'    compiling with {variables["MAX_JOBS"]} jobs: on 2 cores about 7 minutes, for a GPU far more')
    env.pip(
        'compiling MMCV',
        'wheel',
        '-v',
        '--no-deps',
        '--no-build-isolation',
        '--no-cache-dir',
        '--no-binary',
        'mmcv',
        '--wheel-dir',
        folder,
        pin,
        env=variables,
    )
    return next(Path(folder).glob('*.whl'))


def install_wheel(env, wheel):
    env.pip('installing MMCV', 'install', '--no-deps', '--force-reinstall', wheel)


def fault(env, kind='cpu'):
    """Returns what is wrong with MMCV's compiled operators; empty if they work."""
    code, _, complaint = env.ask(f"""if True:
        import torch
        from mmcv.ops import nms
        boxes = torch.tensor([[0., 0., 9., 9.], [0., 0., 9., 8.]], device='{kind.split('-')[0]}')
        assert len(nms(boxes, boxes[:, 3].contiguous(), 0.5)[1]) == 1, 'nms gives a wrong answer' """)
    return complaint if code else ''
