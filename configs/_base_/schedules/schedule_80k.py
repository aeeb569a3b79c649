# schedule_160k.py in 80k iterations of batch 16, for Cityscapes: as many images as in SegFormer's recipe for it, 160k iterations of batch 8
# with the same optimizer; the Focal paper has no Cityscapes.
_base_ = 'schedule_160k.py'

train_cfg = dict(max_iters=80000, val_interval=8000)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=1500, end=80000),
]
