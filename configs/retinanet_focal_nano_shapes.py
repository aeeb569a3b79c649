# RetinaNet for the generated shapes, with the backbone of the ATSS demo and anchors of 12–152 px for objects of 12–68 px.
_base_ = [
    '_base_/retinanet.py',
    '_base_/backbones/focal_nano.py',
    '_base_/shapes_detection.py',
    '_base_/schedule_shapes.py',
    '_base_/detection_runtime.py',
]

model = dict(
    data_preprocessor=dict(pad_size_divisor=4),
    backbone=dict(_base_.backbone, out_indices=(0, 1, 2, 3)),
    neck=dict(in_channels=_base_.channels, out_channels=48, num_outs=4),
    bbox_head=dict(
        num_classes=4,
        in_channels=48,
        feat_channels=48,
        stacked_convs=2,
        norm_cfg=dict(type='GN', num_groups=12, requires_grad=True),
        anchor_generator=dict(octave_base_scale=3, ratios=[1.0], strides=[4, 8, 16, 32])),
    test_cfg=dict(nms_pre=200))
