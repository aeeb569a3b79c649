# Sparse R-CNN for the generated shapes, with the backbone of the ATSS demo: 30 proposals, 3 stages.
_base_ = [
    '_base_/sparse_rcnn.py',
    '_base_/backbones/focal_nano.py',
    '_base_/shapes_detection.py',
    '_base_/schedule_shapes.py',
    '_base_/detection_runtime.py',
]

num_stages = 3
num_proposals = 30
model = dict(
    data_preprocessor=dict(pad_size_divisor=4),
    backbone=_base_.backbone,
    neck=dict(in_channels=_base_.channels, out_channels=48),
    rpn_head=dict(num_proposals=num_proposals, proposal_feature_channel=48),
    roi_head=dict(
        num_stages=num_stages,
        stage_loss_weights=[1] * num_stages,
        proposal_feature_channel=48,
        bbox_roi_extractor=dict(out_channels=48),
        bbox_head=[
            dict(
                head,
                num_classes=4,
                num_heads=4,
                num_reg_fcs=1,
                feedforward_channels=192,
                in_channels=48,
                dynamic_conv_cfg=dict(head.dynamic_conv_cfg, in_channels=48, feat_channels=16, out_channels=48))
            for head in _base_.model.roi_head.bbox_head[:num_stages]
        ]),
    train_cfg=dict(rcnn=_base_.model.train_cfg.rcnn[:num_stages]),
    test_cfg=dict(rcnn=dict(max_per_img=num_proposals)))

epochs = 4  # it learns slowly from scratch
train_cfg = dict(max_epochs=epochs, val_interval=epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=200),
    dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True, begin=0, end=epochs, eta_min=0),
]
optim_wrapper = dict(optimizer=dict(lr=5e-4), clip_grad=dict(max_norm=1))
