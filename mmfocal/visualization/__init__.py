"""Pictures of what a network sees."""

from importlib.util import find_spec

from mmfocal.ops import mmcv_ops

if find_spec('mmcv'):
    mmcv_ops.install()  # modules here import MMDetection, which imports mmcv.ops
