# Windows of 14 tokens, of 7 in stage 4 (Table 8). SWIN_TINY_WINDOW14 names the weights.
_base_ = 'mask_rcnn_swin_tiny_1x.py'

model = dict(
    backbone=dict(
        type='SwinVariant',
        window_size=(14, 14, 14, 7),
        init_cfg=dict(checkpoint='{{$SWIN_TINY_WINDOW14:unset:SWIN_TINY_WINDOW14}}'),
    )
)
