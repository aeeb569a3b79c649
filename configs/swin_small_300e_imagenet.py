_base_ = 'swin_tiny_300e_imagenet.py'

model = dict(backbone=dict(arch='small', drop_path_rate=0.3))
