# The released Focal code's recipe, which is Swin's: AdamW, learning rate 5e-4 per 512 images (1e-3 at batch 1024), 20
# epochs of warm-up from 1e-6, then a cosine, which counts from the first epoch on, to 1e-5 at epoch 300. The paper
# (section 4.1) has the same numbers. No decay of vectors and of position tables.
epochs, warmup = 300, 20
train_cfg = dict(type='ResumableEpochLoop', max_epochs=epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(type='WarmupCosineLR', warmup=warmup, end=epochs, by_epoch=True, convert_to_iter_based=True),
]
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        flat_decay_mult=0.0,
        custom_keys=dict(bias_table=dict(decay_mult=0.0)),
    ),
    clip_grad=dict(max_norm=5.0),
)
auto_scale_lr = dict(enable=False, base_batch_size=1024)
