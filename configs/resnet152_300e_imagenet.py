_base_ = 'resnet50_300e_imagenet.py'

model = dict(backbone=dict(depth=152))
