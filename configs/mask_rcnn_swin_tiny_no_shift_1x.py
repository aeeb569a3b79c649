# Without shifted windows (Table 9). SWIN_TINY_NO_SHIFT names the weights.
_base_ = 'mask_rcnn_swin_tiny_1x.py'

model = dict(
    backbone=dict(
        type='SwinVariant',
        use_shift=False,
        init_cfg=dict(checkpoint='{{$SWIN_TINY_NO_SHIFT:unset:SWIN_TINY_NO_SHIFT}}'),
    )
)
