_base_ = [
    '_base_/models/atss.py',
    '_base_/backbones/focal_tiny.py',
    '_base_/datasets/coco_detection.py',
    '_base_/schedules/schedule_1x.py',
    '_base_/runtime/detection.py',
]

model = dict(
    backbone=dict(_base_.backbone, drop_path_rate=_base_.drop_path.schedule_1x),
    neck=dict(in_channels=_base_.channels[1:]),
)
