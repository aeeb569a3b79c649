# Depths 2-2-2-2 (Table 10). SWIN_TINY_DEPTHS2222 names the weights.
_base_ = 'mask_rcnn_swin_tiny_1x.py'

model = dict(
    backbone=dict(
        type='SwinVariant',
        depths=[2, 2, 2, 2],
        init_cfg=dict(checkpoint='{{$SWIN_TINY_DEPTHS2222:unset:SWIN_TINY_DEPTHS2222}}'),
    )
)
