# 10 epochs of the generated shapes at batch 32: minutes on a CPU.
_base_ = 'schedule_300e_imagenet.py'

epochs = 10
train_cfg = dict(max_epochs=epochs)
param_scheduler = [
    dict(type='WarmupCosineLR', warmup=1, end=epochs, by_epoch=True, convert_to_iter_based=True),
]
optim_wrapper = dict(optimizer=dict(lr=5e-4))
auto_scale_lr = dict(base_batch_size=32)
