"""MMCV's operators without compiling: `install()` makes `mmcv.ops` work with mmcv-lite."""

from mmfocal.ops.mmcv_ops.extension import CHOICES, describe, install

__all__ = ['CHOICES', 'describe', 'install']
