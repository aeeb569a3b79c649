# The window and the pooled tokens, no ring (Figure 5).
_base_ = 'focal_tiny_300e_imagenet.py'

model = dict(backbone=dict(expand_sizes=(0, 0, 0, 0)))
