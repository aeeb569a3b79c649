# Recipe of ViL's authors for detectors: AdamW 1e-4, every parameter decays, 1000 iterations of warm-up from a
# hundredth. Weight decay 0.05 is what their README's text says (its commands have 0.1, the config files 1e-4). A
# config adds the gradient norm to clip to, which depends on the method.
_base_ = 'schedule_1x_sgd.py'

param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1),
]
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=0.05))
