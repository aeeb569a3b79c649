# Panoptic FPN (https://arxiv.org/abs/1901.02446) as in MMDetection: Mask R-CNN with a semantic head on its FPN, for
# the 53 stuff classes of COCO and one class for all things. A config adds the backbone and the channels of its four
# stages.
_base_ = 'mask_rcnn.py'

model = dict(
    type='PanopticFPN',
    data_preprocessor=dict(pad_seg=True),
    semantic_head=dict(
        type='PanopticFPNHead',
        num_things_classes=80,
        num_stuff_classes=53,
        in_channels=256,
        inner_channels=128,
        start_level=0,
        end_level=4,
        norm_cfg=dict(type='GN', num_groups=32),
        loss_seg=dict(type='CrossEntropyLoss', ignore_index=255, loss_weight=0.5),
    ),
    panoptic_fusion_head=dict(type='HeuristicFusionHead', num_things_classes=80, num_stuff_classes=53),
    test_cfg=dict(
        rcnn=dict(score_thr=0.6, nms=dict(class_agnostic=True)), panoptic=dict(mask_overlap=0.5, stuff_area_limit=4096)
    ),
)
