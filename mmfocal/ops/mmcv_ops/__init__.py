"""MMCV's operators without compiling: `install()` makes `mmcv.ops` work with mmcv-lite."""

from mmfocal.ops.mmcv_ops.extension import describe, install

__all__ = ['describe', 'install']
