# schedule_shapes.py with 4 epochs, a lower learning rate and a smaller gradient norm, since Sparse R-CNN learns
# slowly from scratch.
_base_ = 'schedule_shapes.py'

epochs = 4
train_cfg = dict(max_epochs=epochs, val_interval=epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=200),
    dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True, begin=0, end=epochs, eta_min=0),
]
optim_wrapper = dict(optimizer=dict(lr=5e-4), clip_grad=dict(max_norm=1))
