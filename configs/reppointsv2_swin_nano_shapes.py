_base_ = [
    '_base_/reppointsv2_nano.py',
    '_base_/backbones/swin_nano.py',
    '_base_/shapes_detection.py',
    '_base_/schedule_shapes.py',
    '_base_/detection_runtime.py',
]

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels[1:]))
