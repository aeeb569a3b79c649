# Convolutional embedding: overlapping convolutions as stem and downsampling.
_base_ = 'focal_small_300e_imagenet.py'

model = dict(backbone=dict(conv_embed=True))
