# Mask R-CNN for the generated shapes, with anchors of 16–128 px for objects of 12–68 px. A config adds a nano backbone
# and its channels.
_base_ = 'mask_rcnn.py'

model = dict(
    data_preprocessor=dict(pad_size_divisor=4),
    neck=dict(out_channels=48, num_outs=4),
    rpn_head=dict(
        in_channels=48, feat_channels=48, anchor_generator=dict(scales=[4], ratios=[1.0], strides=[4, 8, 16, 32])
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=48),
        bbox_head=dict(in_channels=48, fc_out_channels=128, num_classes=4),
        mask_roi_extractor=dict(out_channels=48),
        mask_head=dict(num_convs=2, in_channels=48, conv_out_channels=48, num_classes=4),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)), rpn_proposal=dict(nms_pre=200, max_per_img=100), rcnn=dict(sampler=dict(num=64))
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100)),
)
