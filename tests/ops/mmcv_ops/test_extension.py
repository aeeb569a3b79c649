"""Which operators `install` chooses, and that OpenMMLab's libraries accept the stand-in."""

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mmfocal.errors import ConfigError, MissingOperatorError
from mmfocal.ops import mmcv_ops
from mmfocal.ops.mmcv_ops import extension, torchvision_kernels

ROOT = Path(__file__).parents[3]


def run(code, *, compiled='', **variables):
    """Runs code in a process of its own, in which the compiled operators cannot be imported for a reason."""
    blocker = f"""
import sys

class Blocker:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == 'mmcv._ext':
            raise {compiled}

sys.meta_path.insert(0, Blocker)
"""
    env = {'PATH': '', 'PYTHONPATH': ':'.join([str(ROOT), *filter(None, sys.path)]), **variables}
    command = [sys.executable, '-c', (blocker if compiled else '') + code]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)


NOT_THERE = "ModuleNotFoundError('no module', name='mmcv._ext')"


def test_openmmlab_accepts_the_stand_in():
    done = run(
        """
import mmfocal.registration
import mmcv.ops, mmdet.apis, mmdet.models, mmseg.apis, mmseg.models, torch
from mmcv.utils.env import collect_env
from mmcv.utils.ext_loader import check_ops_exist
from mmengine.utils.dl_utils import mmcv_full_available
from mmfocal.ops import mmcv_ops

assert check_ops_exist() and mmcv_full_available()
assert collect_env()['MMCV CUDA Compiler'] == 'not available'
boxes = torch.tensor([[0., 0., 9., 9.], [0., 0., 9., 8.]])
assert mmcv.ops.nms(boxes, boxes[:, 3].contiguous(), 0.5)[1].tolist() == [0]
print(mmcv_ops.describe())
""",
        compiled=NOT_THERE,
        MMFOCAL_MMCV_OPS='pytorch',
    )
    assert done.stdout == 'MMCV operators: PyTorch\n', done.stderr


@pytest.mark.parametrize(
    'module', ['mmfocal.registration', 'mmfocal.models.reppoints_v2', 'mmfocal.visualization.heatmaps']
)
def test_modules_that_install_the_operators(module):
    done = run(f'import {module}, mmcv.ops', compiled=NOT_THERE)
    assert done.returncode == 0, done.stderr


def test_broken_compiled_operators_are_reported():
    done = run(
        'from mmfocal.ops import mmcv_ops; print(mmcv_ops.install())', compiled="ImportError('undefined symbol: _ZN')"
    )
    assert 'cannot be imported (undefined symbol: _ZN)' in done.stderr and 'torch' in done.stderr
    assert done.stdout.startswith('MMCV operators: ') and 'compiled' not in done.stdout


@pytest.mark.parametrize(
    'choice, sentence',
    [('compiled', 'MMFOCAL_MMCV_OPS=compiled: mmcv._ext cannot be imported'), ('cuda', 'choose from auto, compiled')],
)
def test_choices_that_cannot_be_had(choice, sentence):
    done = run('from mmfocal.ops import mmcv_ops; mmcv_ops.install()', compiled=NOT_THERE, MMFOCAL_MMCV_OPS=choice)
    assert done.returncode and sentence in done.stderr.splitlines()[-1]


def test_a_choice_that_comes_too_late():
    code = """
from mmfocal.ops import mmcv_ops
mmcv_ops.install()
import mmcv.ops, sys
sys.modules['mmcv._ext'] = type(sys)('mmcv._ext')
mmcv_ops.install('pytorch')
"""
    assert 'mmcv.ops is already imported' in run(code).stderr.splitlines()[-1]


def test_names_of_all_operators_exist_and_missing_ones_raise_when_called():
    stand_in = extension.StandIn('mmcv._ext')
    names = [name for name in dir(sys.modules['mmcv._ext']) if not name.startswith('_')]
    assert all(callable(getattr(stand_in, name)) for name in (*names, 'nms_rotated', 'an_operator_of_tomorrow'))
    with pytest.raises(MissingOperatorError, match='mmcv.ops: nms_rotated runs only compiled.*MMCV_WITH_OPS=1 pip'):
        stand_in.nms_rotated(torch.ones(1, 5))
    assert set(extension.OPERATORS) <= set(extension.OPERATORS_AS_CALLED)
    assert not hasattr(stand_in, '__wrapped__')


def test_operators_have_the_compiled_signatures():
    """MMCV passes keywords: its calls must find the same names. pybind11 writes them into the docstring."""
    compiled = sys.modules['mmcv._ext']
    for name, function in extension.OPERATORS.items():
        doc = getattr(compiled, name).__doc__ or ''
        if not doc.startswith(f'{name}('):
            continue  # no compiled operators here
        names = [part.partition(':')[0].strip() for part in doc.partition('(')[2].partition(') ->')[0].split(',')]
        assert names == list(function.__code__.co_varnames[: function.__code__.co_argcount]), name


@pytest.fixture
def compiled_for_the_cpu(monkeypatch):
    """MMCV compiled without CUDA, beside an accelerator: the meta device plays it."""
    compiled = ModuleType('mmcv._ext')
    compiled.get_compiling_cuda_version = lambda: 'not available'
    compiled.get_compiler_version = lambda: 'GCC'
    compiled.nms = lambda *args, **kwargs: 'compiled'
    compiled.nms_rotated = lambda *args, **kwargs: 'compiled'
    monkeypatch.setitem(sys.modules, 'mmcv._ext', compiled)
    monkeypatch.setitem(extension.OPERATORS_AS_CALLED, 'nms', lambda *args, **kwargs: 'ours')
    monkeypatch.setattr(torch.accelerator, 'is_available', lambda: True)
    monkeypatch.setattr(torch.accelerator, 'current_accelerator', lambda: torch.device('meta'))
    return compiled


def test_cpu_only_operators_beside_an_accelerator(compiled_for_the_cpu):
    for _ in range(2):  # a second call changes nothing
        assert mmcv_ops.install('auto') == 'MMCV operators: compiled on the CPU; on meta: PyTorch'
    cpu, accelerator = torch.ones(2, 4), torch.ones(2, 4, device='meta')
    assert compiled_for_the_cpu.nms(cpu, scores=cpu) == 'compiled'
    assert compiled_for_the_cpu.nms(accelerator, scores=accelerator) == 'ours'
    assert compiled_for_the_cpu.nms_rotated(cpu) == 'compiled'
    with pytest.raises(MissingOperatorError, match='nms_rotated'):
        compiled_for_the_cpu.nms_rotated(accelerator)
    assert compiled_for_the_cpu.get_compiler_version() == 'GCC'


def test_compiled_operators_stay_without_an_accelerator(compiled_for_the_cpu, monkeypatch):
    monkeypatch.setattr(torch.accelerator, 'is_available', lambda: False)
    assert mmcv_ops.install('auto') == 'MMCV operators: compiled'
    assert compiled_for_the_cpu.nms(torch.ones(1, 4, device='meta')) == 'compiled'


def test_compiled_operators_with_cuda_stay(compiled_for_the_cpu):
    compiled_for_the_cpu.get_compiling_cuda_version = lambda: '13.0'
    assert mmcv_ops.install('auto') == 'MMCV operators: compiled'


@pytest.fixture
def torchvision(monkeypatch):
    """Answers of a torchvision that is there or not; operators are looked for anew."""
    cached = torchvision_kernels._run_on
    cached.cache_clear()
    monkeypatch.setattr(torchvision_kernels, 'failures', {})
    monkeypatch.setattr(torchvision_kernels, 'enabled', True)
    monkeypatch.setattr(torchvision_kernels, 'prepare_torchvision', lambda: False)  # as for the installed one
    fake = ModuleType('torchvision')
    fake.__version__ = '0.99'
    yield lambda module=fake: monkeypatch.setitem(sys.modules, 'torchvision', module)
    cached.cache_clear()


def test_torchvision_whose_operators_do_not_run(torchvision, monkeypatch):
    def nms(*args):
        raise RuntimeError('operator torchvision::nms does not exist\nmore')

    torchvision()
    monkeypatch.setattr(torch.ops, 'torchvision', ModuleType('torchvision'), raising=False)
    torch.ops.torchvision.nms = nms
    assert extension.describe_stand_in('cpu') == (
        "PyTorch (torchvision's do not run: operator torchvision::nms does not exist)"
    )


def test_torchvision_whose_operators_run(torchvision, monkeypatch):
    torchvision()
    monkeypatch.setattr(torch.ops, 'torchvision', ModuleType('torchvision'), raising=False)
    torch.ops.torchvision.nms = lambda *args: torch.tensor([0])
    assert extension.describe_stand_in('cpu') == 'torchvision 0.99, PyTorch apart from NMS'
    monkeypatch.setattr(torchvision_kernels, '_run_on', lambda device_type: True)
    assert extension.describe_stand_in('cuda') == 'torchvision 0.99, PyTorch where torchvision has none'
    assert extension.describe_stand_in('mps') == 'PyTorch'


def test_no_torchvision(torchvision, monkeypatch):
    torchvision(None)
    assert extension.describe_stand_in('cpu') == 'PyTorch'
    monkeypatch.setitem(sys.modules, 'mmcv._ext', extension.StandIn('mmcv._ext'))
    with pytest.raises(ConfigError, match='MMFOCAL_MMCV_OPS=torchvision: its operators do not run'):
        mmcv_ops.install('torchvision')


def test_nothing_is_described_before_mmcv_is_loaded(monkeypatch):
    monkeypatch.delitem(sys.modules, 'mmcv._ext')
    assert mmcv_ops.describe() == ''


def test_installing_does_not_import_the_compiler():
    done = run(
        "import sys; from mmfocal.ops import mmcv_ops; mmcv_ops.install('pytorch'); import mmcv.ops, torch;"
        "b = torch.ones(1, 4); mmcv.ops.nms(b, b[:, 0], .5); assert 'torch._dynamo' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr


def test_the_loader_is_importlibs():
    spec = extension.ModuleSpec('mmcv._ext', extension.StandInLoader())
    assert isinstance(importlib.util.module_from_spec(spec), extension.StandIn)
