# MMSegmentation's 160k, for ResNets: SGD 0.01, power 0.9 down to 1e-4, without warm-up. (The Swin paper compares with ResNets that others
# have trained.)
_base_ = 'schedule_160k.py'

param_scheduler = [dict(type='PolyLR', eta_min=1e-4, power=0.9, by_epoch=False, begin=0, end=160000)]
optim_wrapper = dict(
    _delete_=True, type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4)
)
