# 3 epochs of the generated shapes at batch 16: a minute on a CPU.
_base_ = 'schedule_300e_imagenet.py'

epochs = 3
train_cfg = dict(max_epochs=epochs)
param_scheduler = [
    dict(type='WarmupCosineLR', warmup=1, end=epochs, by_epoch=True, convert_to_iter_based=True),
]
optim_wrapper = dict(optimizer=dict(lr=1e-3))
auto_scale_lr = dict(base_batch_size=16)
