_base_ = [
    '_base_/cascade_mask_rcnn_nano.py',
    '_base_/backbones/swin_nano.py',
    '_base_/shapes_instance.py',
    '_base_/schedule_shapes.py',
    '_base_/detection_runtime.py',
]

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
