_base_ = 'focal_tiny_swin_init_30e_imagenet.py'

model = dict(
    backbone=dict(
        arch='small',
        drop_path_rate=0.3,
        init_cfg=dict(checkpoint=f'{_base_.swin}v1.0.0/swin_small_patch4_window7_224.pth'),
    )
)
