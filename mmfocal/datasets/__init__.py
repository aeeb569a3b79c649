"""The generated shapes; COCO, panoptic and label-map data sets whose files are validated before training starts."""

from importlib.util import find_spec

from mmfocal.ops import mmcv_ops

if find_spec('mmcv'):
    mmcv_ops.install()  # before modules here import MMDetection or MMSegmentation, in spawned workers too
