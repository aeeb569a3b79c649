"""Registers what configs name, as far as the installed libraries allow; configs list it in `custom_imports`."""

from importlib.util import find_spec

from mmfocal import engine, models  # noqa: F401
from mmfocal.datasets import class_checks  # noqa: F401
from mmfocal.engine.config_paths import register_config_prefix
from mmfocal.engine.mmpretrain_import import prepare_mmpretrain
from mmfocal.models.flop_handles import register_flop_handles
from mmfocal.ops import mmcv_ops
from mmfocal.ops.torchvision_import import prepare_torchvision
from mmfocal.weights import register_safe_loaders

prepare_torchvision()  # before anything imports torchvision
register_safe_loaders()
register_config_prefix()
register_flop_handles()
if find_spec('mmcv'):
    mmcv_ops.install()  # before MMDetection and MMSegmentation import mmcv.ops
    if find_spec('mmpretrain'):
        prepare_mmpretrain()  # before MMDetection imports it
    from mmfocal.visualization import pictures  # noqa: F401
if find_spec('mmdet'):
    from mmfocal.datasets import coco, coco_metric, coco_panoptic  # noqa: F401
    from mmfocal.models import pvt, reppoints_v2, sparse_rcnn, swin_variant  # noqa: F401
    from mmfocal.models.data_preprocessors import detection  # noqa: F401
if all(map(find_spec, ('mmcv', 'mmpretrain'))):
    from mmfocal.datasets import class_accuracy, classification  # noqa: F401
# MMSegmentation imports the other two, and works without MMDetection (except for its Mask2Former).
if all(map(find_spec, ('mmseg', 'ftfy', 'regex'))):
    from mmfocal.datasets import iou_metric, label_maps, transforms  # noqa: F401
    from mmfocal.models import segmentation_losses  # noqa: F401
    from mmfocal.models.data_preprocessors import segmentation  # noqa: F401
