# The window and the pooled tokens, no ring (Figure 5). FOCAL_TINY_GLOBAL names the weights.
_base_ = 'mask_rcnn_focal_tiny_1x.py'

model = dict(
    backbone=dict(expand_sizes=(0, 0, 0, 0), init_cfg=dict(checkpoint='{{$FOCAL_TINY_GLOBAL:unset:FOCAL_TINY_GLOBAL}}'))
)
