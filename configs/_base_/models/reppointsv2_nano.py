# RepPoints V2 for the generated shapes. A config adds a nano backbone with strides 8, 16 and 32, and their channels.
_base_ = 'reppointsv2.py'

norm_cfg = dict(type='GN', num_groups=8, requires_grad=True)
model = dict(
    data_preprocessor=dict(pad_size_divisor=4),
    neck=dict(out_channels=48, num_outs=3, norm_cfg=norm_cfg),
    bbox_head=dict(
        num_classes=4,
        in_channels=48,
        feat_channels=32,
        point_feat_channels=32,
        stacked_convs=2,
        corner_dim=16,
        norm_cfg=norm_cfg,
        point_strides=[8, 16, 32],
    ),
)
