# A detector with 1.2 M parameters that learns the generated shapes from scratch in minutes on a CPU: `make demo`.
_base_ = [
    '_base_/models/atss_nano.py',
    '_base_/backbones/focal_nano.py',
    '_base_/datasets/shapes_detection.py',
    '_base_/schedules/schedule_shapes.py',
    '_base_/runtime/detection.py',
]

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
