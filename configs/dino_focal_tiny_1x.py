_base_ = [
    '_base_/models/dino.py',
    '_base_/backbones/focal_tiny.py',
    '_base_/datasets/coco_detection_ms_crop.py',
    '_base_/schedules/schedule_1x_dino.py',
    '_base_/runtime/detection.py',
]

model = dict(
    backbone=dict(_base_.backbone, drop_path_rate=_base_.drop_path.schedule_1x),
    neck=dict(in_channels=_base_.channels[1:]),
)

train_dataloader = dict(dataset=dict(filter_cfg=dict(filter_empty_gt=False)))  # as in MMDetection
