# MMDetection's DINO with Swin-L: 36 epochs, learning rate divided by 10 after 27 and 33.
_base_ = 'schedule_1x_dino.py'

train_cfg = dict(max_epochs=36)
param_scheduler = [dict(type='MultiStepLR', begin=0, end=36, by_epoch=True, milestones=[27, 33], gamma=0.1)]
