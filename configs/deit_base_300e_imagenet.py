_base_ = 'deit_small_300e_imagenet.py'

model = dict(backbone=dict(arch='deit-base'), head=dict(in_channels=768))
