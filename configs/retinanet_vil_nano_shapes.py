_base_ = [
    '_base_/models/retinanet_nano.py',
    '_base_/backbones/vil_nano.py',
    '_base_/datasets/shapes_detection.py',
    '_base_/schedules/schedule_shapes.py',
    '_base_/runtime/detection.py',
]

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
