# Cascade Mask R-CNN for the generated shapes: mask_rcnn_nano.py with three box heads. They see fewer regions and
# sample fewer points of each, since RoIAlign's backward takes most of the time on a CPU. A config adds a nano backbone
# and its channels.
_base_ = 'cascade_mask_rcnn.py'

model = dict(
    data_preprocessor=dict(pad_size_divisor=4),
    neck=dict(out_channels=48, num_outs=4),
    rpn_head=dict(
        in_channels=48, feat_channels=48, anchor_generator=dict(scales=[4], ratios=[1.0], strides=[4, 8, 16, 32])
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=48, roi_layer=dict(sampling_ratio=1)),
        bbox_head=[
            dict(head, num_shared_convs=2, in_channels=48, conv_out_channels=32, fc_out_channels=128, num_classes=4)
            for head in _base_.model.roi_head.bbox_head
        ],
        mask_roi_extractor=dict(out_channels=48, roi_layer=dict(sampling_ratio=1)),
        mask_head=dict(num_convs=2, in_channels=48, conv_out_channels=48, num_classes=4),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=[dict(stage, sampler=dict(stage.sampler, num=32)) for stage in _base_.model.train_cfg.rcnn],
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100)),
)
