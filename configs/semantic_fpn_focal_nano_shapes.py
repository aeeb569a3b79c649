# Semantic FPN for the label maps of the generated shapes, with the backbone of the ATSS demo.
_base_ = [
    '_base_/models/semantic_fpn.py',
    '_base_/backbones/focal_nano.py',
    '_base_/datasets/shapes_semantic.py',
    '_base_/schedules/schedule_shapes_iterations.py',
    '_base_/runtime/segmentation.py',
]

norm_cfg = dict(type='GN', num_groups=12, requires_grad=True)
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(_base_.backbone, init_cfg=_base_.init_cfg),
    neck=dict(in_channels=_base_.channels, out_channels=48, norm_cfg=norm_cfg),
    decode_head=dict(
        in_channels=[48, 48, 48, 48],
        channels=48,
        num_classes=5,
        dropout_ratio=0.0,
        norm_cfg=norm_cfg,
        loss_decode=_base_.loss_decode,
    ),
)
