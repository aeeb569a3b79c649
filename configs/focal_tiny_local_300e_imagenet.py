# The window and its ring, no pooled tokens (Figure 5).
_base_ = 'focal_tiny_300e_imagenet.py'

model = dict(backbone=dict(focal_levels=(1, 1, 1, 1)))
