# Mask2Former's on COCO (its section 4.1, and MMDetection): AdamW 1e-4, a tenth of it for the backbone, a
# weight decay of 0.05 (none for norms, position tables, queries and level embeddings), gradients cut at norm
# 0.01, 50 epochs of batch 16 without warm-up. The learning rate is divided by 10 after 0.9 and 0.95 of them
# in the paper; in its code and in MMDetection after 327778 and 355092 of 368750 iterations, 0.889 and 0.963.
# Epochs hold for any batch size, and a resumed run need not load again what it has seen, as MMEngine's loop
# of iterations does.
_base_ = 'schedule_3x.py'

train_cfg = dict(max_epochs=50)
param_scheduler = [dict(type='MultiStepLR', begin=0, end=50, by_epoch=True, milestones=[45, 48], gamma=0.1)]

# Of the keys that a parameter's name contains, MMEngine takes the longest: these are longer than 'backbone'.
backbone_norms = [
    f'.{norm}.{param}' for norm in ('norm', 'norm0', 'norm1', 'norm2', 'norm3') for param in ('weight', 'bias')
]
undecayed = dict(decay_mult=0.0)
optim_wrapper = dict(
    clip_grad=dict(max_norm=0.01, norm_type=2),
    paramwise_cfg=dict(
        custom_keys=dict(
            backbone=dict(lr_mult=0.1),
            bias_table=dict(lr_mult=0.1),
            query_embed=undecayed,
            query_feat=undecayed,
            level_embed=undecayed,
            **{key: dict(undecayed, lr_mult=0.1) for key in backbone_norms},
        )
    ),
)
