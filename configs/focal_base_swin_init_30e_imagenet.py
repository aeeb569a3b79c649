# Swin-B's weights here are those of ImageNet-1K.
_base_ = 'focal_tiny_swin_init_30e_imagenet.py'

model = dict(
    backbone=dict(
        arch='base',
        drop_path_rate=0.5,
        init_cfg=dict(checkpoint=f'{_base_.swin}v1.0.0/swin_base_patch4_window7_224.pth'),
    ),
    head=dict(in_channels=1024),
)
