# Windows of 14 tokens, of 7 in stage 4 (Table 8).
_base_ = 'swin_tiny_300e_imagenet.py'

model = dict(
    backbone=dict(stage_cfgs=[dict(window_size=14), dict(window_size=14), dict(window_size=14), dict(window_size=7)])
)
