_base_ = [
    '_base_/models/retinanet.py',
    '_base_/backbones/pvt_small.py',
    '_base_/datasets/coco_detection.py',
    '_base_/schedules/schedule_1x_pvt.py',
    '_base_/runtime/detection.py',
]

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels[1:]))
