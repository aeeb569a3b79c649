_base_ = ['cvt_13_300e_imagenet.py']

model = dict(backbone=dict(arch='cvt-21'))
