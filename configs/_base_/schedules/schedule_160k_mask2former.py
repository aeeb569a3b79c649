# Mask2Former's recipe for Swin, as in MMSegmentation: AdamW 1e-4, a tenth of it for the backbone, weight decay 0.05
# (none for norms, position tables, queries and level embeddings), gradients clipped to norm 0.01, polynomial decay
# with power 0.9, no warm-up.
_base_ = 'schedule_160k.py'

param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=0.9, by_epoch=False, begin=0, end=160000)]

# MMEngine applies the longest key that a parameter's name contains: these are longer than 'backbone'.
backbone_norms = [
    f'.{norm}.{param}' for norm in ('norm', 'norm0', 'norm1', 'norm2', 'norm3') for param in ('weight', 'bias')
]
optim_wrapper = dict(
    optimizer=dict(lr=1e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=0.01, norm_type=2),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        custom_keys=dict(
            backbone=dict(lr_mult=0.1),
            bias_table=dict(lr_mult=0.1),
            **{key: dict(lr_mult=0.1, decay_mult=0.0) for key in backbone_norms},
            **{key: dict(decay_mult=0.0) for key in ('query_embed', 'query_feat', 'level_embed')},
        ),
    ),
)
