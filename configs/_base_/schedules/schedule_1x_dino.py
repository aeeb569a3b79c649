# MMDetection's DINO: AdamW 1e-4, a tenth of it for the backbone, weight decay 1e-4, 12 epochs without warm-up,
# learning rate divided by 10 after 11.
_base_ = 'schedule_1x.py'

param_scheduler = [dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[11], gamma=0.1)]
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1, norm_type=2),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))),
)
