# Without shifted windows (Table 9).
_base_ = 'swin_tiny_300e_imagenet.py'

model = dict(backbone=dict(stage_cfgs=dict(block_cfgs=dict(shift=False))))
