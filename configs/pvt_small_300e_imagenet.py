# PVT-Small as released: the class token of stage 4 is classified. Drop path, 5 epochs of warm-up and clipping are the
# released code's, which repeats each augmentation three times besides.
_base_ = [
    '_base_/models/classifier.py',
    '_base_/backbones/pvt_small.py',
    '_base_/datasets/imagenet.py',
    '_base_/schedules/schedule_300e_imagenet.py',
    '_base_/runtime/classification.py',
]

model = dict(
    backbone=dict(_base_.backbone, type='PVTClassifier', drop_path_rate=0.1, init_cfg=None),
    neck=None,  # the backbone returns the class token
    head=dict(in_channels=_base_.channels[3]),
)

param_scheduler = [dict(type='WarmupCosineLR', warmup=5, end=300, by_epoch=True, convert_to_iter_based=True)]
optim_wrapper = dict(clip_grad=None, paramwise_cfg=dict(custom_keys=dict(cls_token=dict(decay_mult=0.0))))
