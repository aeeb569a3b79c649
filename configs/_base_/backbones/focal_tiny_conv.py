# Focal-T with convolutional embedding: overlapping convolutions as stem and downsampling. FOCAL_TINY_CONV names the
# weights.
_base_ = 'focal_tiny.py'

backbone = dict(conv_embed=True, init_cfg=dict(checkpoint='{{$FOCAL_TINY_CONV:unset}}'))
