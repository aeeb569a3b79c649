# RepPoints V2 for the generated shapes, with the backbone of the ATSS demo.
_base_ = ['_base_/reppointsv2.py', '_base_/shapes_detection.py', '_base_/schedule_3x.py', '_base_/detection_runtime.py']

norm_cfg = dict(type='GN', num_groups=8, requires_grad=True)
model = dict(
    data_preprocessor=dict(pad_size_divisor=4),
    backbone=dict(
        type='FocalTransformer',
        arch=dict(embed_dims=24, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8)),
        border='mask',
        conv_embed=True,
        drop_path_rate=0.,
        out_indices=(1, 2, 3)),
    neck=dict(in_channels=[48, 96, 192], out_channels=48, num_outs=3, norm_cfg=norm_cfg),
    bbox_head=dict(
        num_classes=4,
        in_channels=48,
        feat_channels=32,
        point_feat_channels=32,
        stacked_convs=2,
        corner_dim=16,
        norm_cfg=norm_cfg,
        point_strides=[8, 16, 32]))

epochs = 3
train_cfg = dict(max_epochs=epochs, val_interval=epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=200),
    dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True, begin=0, end=epochs, eta_min=0),
]
optim_wrapper = dict(optimizer=dict(lr=1e-3, fused=True), clip_grad=dict(max_norm=10))
auto_scale_lr = dict(base_batch_size=4)
