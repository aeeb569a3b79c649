# DeiT-S/16 without distillation (https://arxiv.org/abs/2012.12877), with the recipe of the others. Its authors clip no
# gradients, repeat augmented images and average the weights; their drop path is 0.1.
_base_ = [
    '_base_/models/classifier.py',
    '_base_/datasets/imagenet.py',
    '_base_/schedules/schedule_300e_imagenet.py',
    '_base_/runtime/classification.py',
]

model = dict(
    backbone=dict(type='VisionTransformer', arch='deit-small', img_size=224, patch_size=16, drop_path_rate=0.1),
    neck=None,
    head=dict(type='VisionTransformerClsHead', in_channels=384),
)
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys=dict(cls_token=dict(decay_mult=0.0), pos_embed=dict(decay_mult=0.0)))
)
