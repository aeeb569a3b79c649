# CvT-13 with transformers' layers (pip install mmfocal[cvt]); the class token is classified. Drop path is the released
# configuration's; schedule and augmentation are the other rows'.
_base_ = [
    '_base_/models/classifier.py',
    '_base_/datasets/imagenet.py',
    '_base_/schedules/schedule_300e_imagenet.py',
    '_base_/runtime/classification.py',
]

model = dict(
    backbone=dict(type='CvT', arch='cvt-13', drop_path_rate=0.1),
    neck=None,  # the backbone returns the class token
    head=dict(in_channels=384),
)

optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(cls_token=dict(decay_mult=0.0))))
