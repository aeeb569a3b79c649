_base_ = [
    '_base_/retinanet_nano.py',
    '_base_/backbones/focal_nano.py',
    '_base_/shapes_detection.py',
    '_base_/schedule_shapes.py',
    '_base_/detection_runtime.py',
]

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
