# 12 epochs, learning rate divided by 10 after 8 and 11; optimizer and the rest as in 3x (Focal paper, section 4.2).
_base_ = 'schedule_3x.py'

train_cfg = dict(max_epochs=12)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1),
]
