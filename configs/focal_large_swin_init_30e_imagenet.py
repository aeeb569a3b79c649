# Focal-L from Swin-L's ImageNet-22K weights, fine-tuned on ImageNet-1K. Drop path is 0.2, as Swin-L's authors have it.
_base_ = 'focal_tiny_swin_init_30e_imagenet.py'

model = dict(
    backbone=dict(
        arch='large',
        init_cfg=dict(checkpoint=f'{_base_.swin}v1.0.0/swin_large_patch4_window7_224_22k.pth'),
    ),
    head=dict(in_channels=1536),
)
