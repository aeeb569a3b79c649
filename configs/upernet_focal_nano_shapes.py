# UPerNet for the generated shapes' label maps, with the backbone of the ATSS demo.
_base_ = [
    '_base_/upernet.py',
    '_base_/backbones/focal_nano.py',
    '_base_/shapes_semantic.py',
    '_base_/schedule_shapes_iterations.py',
    '_base_/segmentation_runtime.py',
]

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=_base_.backbone,
    decode_head=dict(in_channels=_base_.channels, channels=32, num_classes=5),
    auxiliary_head=dict(in_channels=_base_.channels[2], channels=32, num_classes=5))
