# RetinaNet for the generated shapes, with anchors of 12–152 px for objects of 12–68 px. A config adds a nano backbone
# with strides 4, 8, 16 and 32, and its channels.
_base_ = 'retinanet.py'

model = dict(
    data_preprocessor=dict(pad_size_divisor=4),
    backbone=dict(out_indices=(0, 1, 2, 3)),
    neck=dict(out_channels=48, num_outs=4),
    bbox_head=dict(
        num_classes=4,
        in_channels=48,
        feat_channels=48,
        stacked_convs=2,
        norm_cfg=dict(type='GN', num_groups=12, requires_grad=True),
        anchor_generator=dict(octave_base_scale=3, ratios=[1.0], strides=[4, 8, 16, 32]),
    ),
    test_cfg=dict(nms_pre=200),
)
