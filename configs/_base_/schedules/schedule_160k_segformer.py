# SegFormer's recipe, as in MMSegmentation: schedule_160k.py with ten times the learning rate for the head.
_base_ = 'schedule_160k.py'

optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=10.0))))
