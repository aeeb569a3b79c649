# With shifted windows (Table 9).
_base_ = 'focal_tiny_300e_imagenet.py'

model = dict(backbone=dict(use_shift=True))
