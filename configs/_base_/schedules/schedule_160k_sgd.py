# MMSegmentation's 160k schedule for ResNets: SGD 0.01, polynomial decay with power 0.9 to 1e-4, no warm-up. (The Swin
# paper quotes others' results for ResNets.)
_base_ = 'schedule_160k.py'

param_scheduler = [dict(type='PolyLR', eta_min=1e-4, power=0.9, by_epoch=False, begin=0, end=160000)]
optim_wrapper = dict(
    _delete_=True, type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4)
)
