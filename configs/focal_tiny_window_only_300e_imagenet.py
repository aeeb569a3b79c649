# The tokens of the window alone (Figure 5).
_base_ = 'focal_tiny_300e_imagenet.py'

model = dict(backbone=dict(expand_sizes=(0, 0, 0, 0), focal_levels=(1, 1, 1, 1)))
