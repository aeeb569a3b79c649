# RepPoints V2 (https://arxiv.org/abs/2007.08508) with the GIoU losses of its authors' configs. A config adds the
# backbone with strides 8, 16 and 32, and their channels.
_base_ = 'det_data_preprocessor.py'

norm_cfg = dict(type='GN', num_groups=32, requires_grad=True)
model = dict(
    type='RepPointsV2Detector',
    backbone=dict(out_indices=(1, 2, 3)),
    neck=dict(type='FPN', out_channels=256, add_extra_convs='on_input', num_outs=5, norm_cfg=norm_cfg),
    bbox_head=dict(
        type='RepPointsV2Head',
        num_classes=80,
        in_channels=256,
        feat_channels=256,
        point_feat_channels=256,
        stacked_convs=3,
        shared_stacked_convs=1,
        corner_dim=64,
        num_points=9,
        gradient_mul=0.1,
        point_strides=[8, 16, 32, 64, 128],
        point_base_scale=4,
        initial_box=4,  # strides, as point_base_scale; with the released 0 the GIoU losses diverged with 3 of 6 seeds
        norm_cfg=norm_cfg,
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox_init=dict(type='GIoULoss', loss_weight=1.0),
        loss_bbox_refine=dict(type='GIoULoss', loss_weight=2.0),
        loss_heatmap=dict(type='GaussianFocalLoss', alpha=2.0, gamma=4.0, loss_weight=0.25),
        loss_offset=dict(type='SmoothL1Loss', beta=1.0 / 9.0, loss_weight=1.0),
        loss_sem=dict(type='SEPFocalLoss', gamma=2.0, alpha=0.25, loss_weight=0.1),
        transform_method='exact_minmax',
    ),
    train_cfg=dict(
        init=dict(assigner=dict(type='PointAssignerV2', scale=4, pos_num=1), pos_weight=-1),
        heatmap=dict(assigner=dict(type='PointHMAssigner', gaussian_bump=True, gaussian_iou=0.7)),
        refine=dict(assigner=dict(type='ATSSAssigner', topk=9), pos_weight=-1),
    ),
    test_cfg=dict(
        nms_pre=1000, min_bbox_size=0, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.6), max_per_img=100
    ),
)
