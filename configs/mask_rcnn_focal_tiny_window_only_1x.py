# The tokens of the window alone (Figure 5). FOCAL_TINY_WINDOW_ONLY names the weights.
_base_ = 'mask_rcnn_focal_tiny_1x.py'

model = dict(
    backbone=dict(
        expand_sizes=(0, 0, 0, 0),
        focal_levels=(1, 1, 1, 1),
        init_cfg=dict(checkpoint='{{$FOCAL_TINY_WINDOW_ONLY:unset:FOCAL_TINY_WINDOW_ONLY}}'),
    )
)
