_base_ = [
    '_base_/mask_rcnn_nano.py',
    '_base_/backbones/r_nano.py',
    '_base_/shapes_instance.py',
    '_base_/schedule_shapes.py',
    '_base_/detection_runtime.py',
]

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
