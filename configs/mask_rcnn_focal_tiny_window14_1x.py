# Windows of 14 tokens, of 7 in stage 4 (Table 8). FOCAL_TINY_WINDOW14 names the weights.
_base_ = 'mask_rcnn_focal_tiny_1x.py'

model = dict(
    backbone=dict(
        window_size=(14, 14, 14, 7), init_cfg=dict(checkpoint='{{$FOCAL_TINY_WINDOW14:unset:FOCAL_TINY_WINDOW14}}')
    )
)
