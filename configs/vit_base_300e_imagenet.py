# ViT-B/16 (https://arxiv.org/abs/2010.11929) with the recipe of the others. Table 2 quotes its authors' training at 384
# pixels without this augmentation.
_base_ = 'deit_small_300e_imagenet.py'

model = dict(backbone=dict(arch='b'), head=dict(in_channels=768))
