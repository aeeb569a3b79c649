# The released recipe. Its authors report 41.1 AP on COCO val2017 with GIoU and 40.9 with smooth L1 losses.
# For smooth L1 losses:
#   --cfg-options model.bbox_head.loss_bbox_init.type=SmoothL1Loss model.bbox_head.loss_bbox_init.beta=0.11
#     model.bbox_head.loss_bbox_init.loss_weight=0.5 model.bbox_head.loss_bbox_refine.type=SmoothL1Loss
#     model.bbox_head.loss_bbox_refine.beta=0.11 model.bbox_head.loss_bbox_refine.loss_weight=1.0
_base_ = [
    '_base_/models/reppointsv2.py',
    '_base_/backbones/r50.py',
    '_base_/datasets/coco_detection.py',
    '_base_/schedules/schedule_1x_sgd.py',
    '_base_/runtime/detection.py',
]

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels[1:]))

optim_wrapper = dict(optimizer=dict(lr=0.01), clip_grad=dict(max_norm=35, norm_type=2))
