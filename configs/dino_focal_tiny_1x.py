_base_ = [
    '_base_/dino.py',
    '_base_/backbones/focal_tiny.py',
    '_base_/coco_detection_ms_crop.py',
    '_base_/schedule_1x_dino.py',
    '_base_/detection_runtime.py',
]

model = dict(
    backbone=dict(_base_.backbone, drop_path_rate=_base_.drop_path.schedule_1x),
    neck=dict(in_channels=_base_.channels[1:]))

train_dataloader = dict(dataset=dict(filter_cfg=dict(filter_empty_gt=False)))  # as MMDetection's DINO
