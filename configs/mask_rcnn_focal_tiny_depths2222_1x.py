# Depths 2-2-2-2 (Table 10). FOCAL_TINY_DEPTHS2222 names the weights.
_base_ = 'mask_rcnn_focal_tiny_1x.py'

model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=96, depths=(2, 2, 2, 2), num_heads=(3, 6, 12, 24)),
        init_cfg=dict(checkpoint='{{$FOCAL_TINY_DEPTHS2222:unset:FOCAL_TINY_DEPTHS2222}}'),
    )
)
