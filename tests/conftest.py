import logging
import os
from collections.abc import Iterator

import pytest
import torch
from mmengine.utils import ManagerMixin

if not torch.cuda.is_available():  # then Triton's kernels run in its interpreter; it looks when it is imported
    os.environ.setdefault('TRITON_INTERPRET', '1')

from mmfocal.datasets.shapes import make_shapes
from mmfocal.ops import mmcv_ops
from mmfocal.ops.torchvision_import import prepare_torchvision

prepare_torchvision()  # test modules import timm, which imports torchvision
mmcv_ops.install()  # test modules import MMDetection before mmfocal.registration


@pytest.fixture(autouse=True, scope='module')
def fresh_globals():
    """What MMEngine keeps per process is that of one test module, whichever modules ran before it.

    Its scope, loggers and message hubs; and visualizers, which would write into an earlier work directory.
    """
    for kind in managers(ManagerMixin):
        kind._instance_dict.clear()


def managers(kind: type) -> Iterator[type]:
    """Yields the classes whose instances MMEngine keeps by name."""
    for child in kind.__subclasses__():
        yield child
        yield from managers(child)


@pytest.fixture(autouse=True)
def silent_loggers(monkeypatch):
    """MMEngine's logger of an earlier test still writes to that test's output, which is closed."""
    monkeypatch.setattr(logging, 'raiseExceptions', False)


@pytest.fixture(scope='session')
def shapes(tmp_path_factory):
    """A small generated data set: 8 training and 4 validation images of 64 px."""
    folder = tmp_path_factory.mktemp('data') / 'shapes'
    make_shapes(str(folder), num_train=8, num_val=4, seed=0, size=(64, 64))
    return folder
