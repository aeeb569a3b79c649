"""Which operators the tests of `mmcv.ops` run: ours, also where MMCV has compiled ones."""

import sys

import mmcv.ops  # noqa: F401  its modules' operators are replaced
import pytest

from mmfocal.ops.mmcv_ops import torchvision_kernels
from mmfocal.ops.mmcv_ops.extension import StandIn

KINDS = ['pytorch'] + (['torchvision'] if torchvision_kernels.run_on('cpu') else [])


@pytest.fixture(params=KINDS)
def our_operators(request, monkeypatch):
    """Makes `mmcv.ops` call our operators, in PyTorch and, where they run, with torchvision's kernels."""
    stand_in = StandIn('mmcv._ext')
    for name, module in list(sys.modules.items()):
        if name.startswith('mmcv.ops.') and hasattr(module, 'ext_module'):
            monkeypatch.setattr(module, 'ext_module', stand_in)
    monkeypatch.setattr(torchvision_kernels, 'enabled', request.param == 'torchvision')
    monkeypatch.setattr(torchvision_kernels, 'always', request.param == 'torchvision')
    return request.param
