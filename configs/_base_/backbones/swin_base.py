_base_ = 'swin_small.py'

backbone = dict(
    embed_dims=128,
    num_heads=[4, 8, 16, 32],
    init_cfg=dict(
        checkpoint='https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_base_patch4_window7_224.pth'
    ),
)
channels = [128, 256, 512, 1024]
drop_path = dict(schedule_1x=0.3, schedule_3x=0.3)  # 3x: its authors' Cascade Mask R-CNN; they have no 1x
