# For weights that another backbone has pretrained: 30 epochs, learning rate 2e-4 at batch 1024, 2 epochs of warm-up.
# Nobody has run this at scale.
_base_ = 'schedule_300e_imagenet.py'

epochs, warmup = 30, 2
train_cfg = dict(max_epochs=epochs)
param_scheduler = [
    dict(type='WarmupCosineLR', warmup=warmup, end=epochs, by_epoch=True, convert_to_iter_based=True),
]
optim_wrapper = dict(optimizer=dict(lr=2e-4))
