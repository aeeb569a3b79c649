# Mask2Former's recipe with Swin, as MMSegmentation has it: AdamW 1e-4, a tenth of it for the backbone, a weight decay of 0.05 (none for norms,
# position tables, queries and level embeddings), gradients cut at norm 0.01, power 0.9 without warm-up.
_base_ = 'schedule_160k.py'

param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=0.9, by_epoch=False, begin=0, end=160000)]

# Of the keys that a parameter's name contains, MMEngine takes the longest: these are longer than 'backbone'.
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
