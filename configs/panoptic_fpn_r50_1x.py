_base_ = [
    '_base_/models/panoptic_fpn.py',
    '_base_/backbones/r50.py',
    '_base_/datasets/coco_panoptic.py',
    '_base_/schedules/schedule_1x_sgd.py',
    '_base_/runtime/panoptic.py',
]

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
