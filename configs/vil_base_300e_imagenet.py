_base_ = ['vil_small_300e_imagenet.py']

model = dict(backbone=dict(arch='base'))
