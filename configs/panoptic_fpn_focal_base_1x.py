_base_ = [
    '_base_/panoptic_fpn.py',
    '_base_/backbones/focal_base.py',
    '_base_/coco_panoptic.py',
    '_base_/schedule_1x.py',
    '_base_/panoptic_runtime.py',
]

model = dict(
    backbone=dict(_base_.backbone, drop_path_rate=_base_.drop_path.schedule_1x),
    neck=dict(in_channels=_base_.channels))
