_base_ = [
    '_base_/panoptic_fpn.py',
    '_base_/backbones/r50.py',
    '_base_/coco_panoptic.py',
    '_base_/schedule_1x_sgd.py',
    '_base_/panoptic_runtime.py',
]

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
