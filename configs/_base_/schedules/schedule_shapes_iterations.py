# schedule_shapes.py in iterations, for segmentation: 5000 at batch 2 are 3 epochs of 3400 images.
_base_ = 'schedule_shapes.py'

iterations = 5000
train_cfg = dict(_delete_=True, type='ResumableIterLoop', max_iters=iterations, val_interval=iterations)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=200),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=0, end=iterations, eta_min=0),
]
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(neck=dict(lr_mult=3.0), head=dict(lr_mult=3.0))))
auto_scale_lr = dict(base_batch_size=2)
