_base_ = [
    '_base_/models/mask_rcnn.py',
    '_base_/backbones/vil_base.py',
    '_base_/datasets/coco_instance.py',
    '_base_/schedules/schedule_1x_vil.py',
    '_base_/runtime/detection.py',
]

model = dict(
    backbone=dict(_base_.backbone, drop_path_rate=_base_.drop_path.mask_rcnn.schedule_1x),
    neck=dict(in_channels=_base_.channels),
)
optim_wrapper = dict(clip_grad=dict(max_norm=0.5))
