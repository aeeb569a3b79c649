_base_ = [
    '_base_/models/retinanet.py',
    '_base_/backbones/vil_medium.py',
    '_base_/datasets/coco_detection_ms.py',
    '_base_/schedules/schedule_3x_vil.py',
    '_base_/runtime/detection.py',
]

model = dict(
    backbone=dict(_base_.backbone, drop_path_rate=_base_.drop_path.retinanet.schedule_3x),
    neck=dict(in_channels=_base_.channels[1:]),
)
optim_wrapper = dict(clip_grad=dict(max_norm=1.0))
