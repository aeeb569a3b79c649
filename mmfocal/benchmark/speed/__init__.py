"""Time and memory of backbones and of the attention operator."""

from importlib.util import find_spec

from mmfocal.ops import mmcv_ops

if find_spec('mmcv'):
    mmcv_ops.install()  # before MMDetection imports mmcv.ops, in spawned workers too
