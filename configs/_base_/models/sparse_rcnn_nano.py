# Sparse R-CNN for the generated shapes: 30 proposals, 3 stages. A config adds a nano backbone and its channels.
_base_ = 'sparse_rcnn.py'

num_stages = 3
num_proposals = 30
model = dict(
    data_preprocessor=dict(pad_size_divisor=4),
    neck=dict(out_channels=48),
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
                dynamic_conv_cfg=dict(head.dynamic_conv_cfg, in_channels=48, feat_channels=16, out_channels=48),
            )
            for head in _base_.model.roi_head.bbox_head[:num_stages]
        ],
    ),
    train_cfg=dict(rcnn=_base_.model.train_cfg.rcnn[:num_stages]),
    test_cfg=dict(rcnn=dict(max_per_img=num_proposals)),
)
