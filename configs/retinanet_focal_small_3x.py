_base_ = [
    '_base_/retinanet.py',
    '_base_/backbones/focal_small.py',
    '_base_/coco_detection_ms_crop.py',
    '_base_/schedule_3x.py',
    '_base_/detection_runtime.py',
]

model = dict(
    backbone=dict(_base_.backbone, drop_path_rate=_base_.drop_path.schedule_3x),
    neck=dict(in_channels=_base_.channels[1:]))
