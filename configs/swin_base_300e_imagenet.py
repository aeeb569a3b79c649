_base_ = 'swin_tiny_300e_imagenet.py'

model = dict(backbone=dict(arch='base', drop_path_rate=0.5), head=dict(in_channels=1024))
