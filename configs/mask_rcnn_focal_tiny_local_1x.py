# The window and its ring, no pooled tokens (Figure 5). FOCAL_TINY_LOCAL names the weights.
_base_ = 'mask_rcnn_focal_tiny_1x.py'

model = dict(
    backbone=dict(focal_levels=(1, 1, 1, 1), init_cfg=dict(checkpoint='{{$FOCAL_TINY_LOCAL:unset:FOCAL_TINY_LOCAL}}'))
)
