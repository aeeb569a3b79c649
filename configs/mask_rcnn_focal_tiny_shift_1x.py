# With shifted windows (Table 9). FOCAL_TINY_SHIFT names the weights.
_base_ = 'mask_rcnn_focal_tiny_1x.py'

model = dict(backbone=dict(use_shift=True, init_cfg=dict(checkpoint='{{$FOCAL_TINY_SHIFT:unset:FOCAL_TINY_SHIFT}}')))
