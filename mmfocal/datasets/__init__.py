"""The generated shapes; COCO, panoptic, label-map and classification data sets, validated before training starts."""

from importlib.util import find_spec

from mmfocal.ops import mmcv_ops
from mmfocal.ops.torchvision_import import prepare_torchvision

if find_spec('mmcv'):
    mmcv_ops.install()  # before modules here import MMDetection or MMSegmentation, in spawned workers too
prepare_torchvision()  # before MMPretrain imports it, likewise
