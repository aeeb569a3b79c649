# The schedule of Swin-T and Focal-T (AdamW 1e-4): the ResNet-50 rows of Table 5 come from the Swin paper (section
# 4.2), which trains both backbones with the same settings. The released recipe, SGD 0.01 for 12 epochs, is
# reppointsv2_r50_1x.py.
_base_ = [
    '_base_/models/reppointsv2.py',
    '_base_/backbones/r50.py',
    '_base_/datasets/coco_detection_ms_crop.py',
    '_base_/schedules/schedule_3x.py',
    '_base_/runtime/detection.py',
]

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels[1:]))

optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))  # the released RepPoints V2 recipe's
