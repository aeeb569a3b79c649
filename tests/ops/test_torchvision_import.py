"""A torchvision built with CUDA beside a torch without, and one that fits."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = """
import sys, torch
sys.path.insert(0, sys.argv[1])
torch.version.cuda = sys.argv[2] or None
from mmfocal.ops.torchvision_import import prepare_torchvision

answers = prepare_torchvision(), prepare_torchvision()
try:
    import torchvision
    print(*answers, prepare_torchvision(), torchvision.__version__)
except RuntimeError as error:
    print(*answers, error)
"""
# What torchvision's import does to its operators.
PACKAGE = """
import torch
for name in ('nms', 'qnms'):
    torch.library.register_fake(f'torchvision::{name}')(lambda dets, scores, iou_threshold: dets)
__version__ = '0.99'
"""


@pytest.mark.parametrize(
    'library, cuda, output',
    [
        ('libc10.so libcudart.so.13', '', 'True True True 0.99'),
        ('libc10.so libcudart.so.13', '13.0', 'False False operator torchvision::nms does not exist'),
        ('libc10.so', '', 'False False operator torchvision::nms does not exist'),
    ],
    ids=['CUDA beside none', 'CUDA beside CUDA', 'none beside none'],
)
def test_only_a_torchvision_that_does_not_fit_is_helped(library, cuda, output, tmp_path):
    (tmp_path / 'torchvision').mkdir()
    (tmp_path / 'torchvision' / '_C.so').write_bytes(b'\x7fELF ' + library.encode())
    (tmp_path / 'torchvision' / '__init__.py').write_text(PACKAGE)
    done = subprocess.run([sys.executable, '-c', CODE, tmp_path, cuda], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f'{output}\n', done.stderr


def test_no_torchvision(tmp_path):
    code = CODE.replace('from mmfocal', "sys.modules['torchvision'] = None\nfrom mmfocal").replace(
        'RuntimeError', 'ImportError'
    )
    done = subprocess.run([sys.executable, '-c', code, tmp_path, ''], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith('False False '), done.stderr


def test_installed_torchvision_is_imported_and_described():
    code = """
import mmfocal.registration, torchvision, timm
from mmfocal.ops import mmcv_ops
from mmfocal.ops.torchvision_import import MISMATCH, prepare_torchvision
assert (MISMATCH in mmcv_ops.describe()) == prepare_torchvision()
"""
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
