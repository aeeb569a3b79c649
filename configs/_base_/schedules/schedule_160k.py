# Swin's ADE20K recipe (UPerNet configs of its authors and of MMSegmentation), which the Focal paper follows (section
# 4.3): AdamW 6e-5, 1500 iterations of warm-up, then linear decay to zero at 160k; batch 16. Position tables and the
# norms of backbones do not decay; BN in heads does.
train_cfg = dict(type='ResumableIterLoop', max_iters=160000, val_interval=16000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=1500, end=160000),
]
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(custom_keys=dict(norm=dict(decay_mult=0.0), bias_table=dict(decay_mult=0.0))),
)
auto_scale_lr = dict(enable=False, base_batch_size=16)
