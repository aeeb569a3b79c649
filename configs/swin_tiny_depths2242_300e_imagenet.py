# Depths 2-2-4-2 (Table 10).
_base_ = 'swin_tiny_300e_imagenet.py'

model = dict(backbone=dict(arch=dict(_delete_=True, embed_dims=96, depths=[2, 2, 4, 2], num_heads=[3, 6, 12, 24])))
