# A detector of 1.2 M parameters that learns the generated shapes from scratch in minutes on a CPU: `make demo`.
_base_ = [
    '_base_/atss_nano.py',
    '_base_/backbones/focal_nano.py',
    '_base_/shapes_detection.py',
    '_base_/schedule_shapes.py',
    '_base_/detection_runtime.py',
]

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
