# schedule_160k.py for Cityscapes: 80k iterations at batch 16, as many images as SegFormer's 160k at batch 8 with the
# same optimizer. The Focal paper has no Cityscapes results.
_base_ = 'schedule_160k.py'

train_cfg = dict(max_iters=80000, val_interval=8000)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=1500, end=80000),
]
