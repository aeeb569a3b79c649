# The released recipe: 40.9 AP on COCO val2017 with smooth L1 losses, 41.1 with GIoU, in its authors' table. For smooth L1:
#   --cfg-options model.bbox_head.loss_bbox_init.type=SmoothL1Loss model.bbox_head.loss_bbox_init.beta=0.11 model.bbox_head.loss_bbox_init.loss_weight=0.5
#     model.bbox_head.loss_bbox_refine.type=SmoothL1Loss model.bbox_head.loss_bbox_refine.beta=0.11 model.bbox_head.loss_bbox_refine.loss_weight=1.0
_base_ = ['_base_/reppointsv2.py', '_base_/coco_detection.py', '_base_/schedule_1x.py', '_base_/detection_runtime.py']

model = dict(
    backbone=dict(
        type='ResNet',
        depth=50,
        num_stages=4,
        out_indices=(1, 2, 3),
        frozen_stages=1,
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=True,
        style='pytorch',
        init_cfg=dict(type='Pretrained', checkpoint='https://download.pytorch.org/models/resnet50-0676ba61.pth')),
    neck=dict(in_channels=[512, 1024, 2048]))

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1),
]
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0001),
    clip_grad=dict(max_norm=35, norm_type=2))
