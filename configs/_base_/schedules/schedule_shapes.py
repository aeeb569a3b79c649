# 3 epochs of the shapes at batch 4, cosine decay from 1e-3: minutes on a CPU.
_base_ = 'schedule_3x.py'

epochs = 3
train_cfg = dict(max_epochs=epochs, val_interval=epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=200),
    dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True, begin=0, end=epochs, eta_min=0),
]
optim_wrapper = dict(optimizer=dict(lr=1e-3, fused=True), clip_grad=dict(max_norm=10))
auto_scale_lr = dict(base_batch_size=4)
