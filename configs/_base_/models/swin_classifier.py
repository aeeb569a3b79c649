# Swin-T with MMPretrain's backbone.
_base_ = 'classifier.py'

model = dict(
    backbone=dict(type='SwinTransformer', arch='tiny', img_size=224, drop_path_rate=0.2), head=dict(in_channels=768)
)
