# schedule_1x_vil.py for 36 epochs, learning rate divided by 10 after 24 and 32, as in the authors' 3x (180k and 240k
# of 270k iterations).
_base_ = 'schedule_1x_vil.py'

train_cfg = dict(max_epochs=36)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', begin=0, end=36, by_epoch=True, milestones=[24, 32], gamma=0.1),
]
