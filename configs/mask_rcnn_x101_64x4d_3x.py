_base_ = [
    '_base_/mask_rcnn.py',
    '_base_/backbones/x101_64x4d.py',
    '_base_/coco_instance_ms_crop.py',
    '_base_/schedule_3x.py',
    '_base_/detection_runtime.py',
]

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
