# Mask2Former's recipe for COCO (its section 4.1, and MMDetection): AdamW 1e-4, a tenth of it for the backbone, weight
# decay 0.05 (none for norms, position tables, queries and level embeddings), gradients clipped to norm 0.01, 50
# epochs at batch 16 without warm-up. The paper divides the learning rate by 10 after 0.9 and 0.95 of the training;
# its code and MMDetection after 327778 and 355092 of 368750 iterations, 0.889 and 0.963. Epochs, unlike iterations,
# hold for any batch size.
_base_ = 'schedule_3x.py'

train_cfg = dict(max_epochs=50)
param_scheduler = [dict(type='MultiStepLR', begin=0, end=50, by_epoch=True, milestones=[45, 48], gamma=0.1)]

# MMEngine applies the longest key that a parameter's name contains: these are longer than 'backbone'.
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
