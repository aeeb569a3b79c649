_base_ = 'seg_swin_small.py'

backbone = dict(
    embed_dims=128,
    num_heads=[4, 8, 16, 32],
    init_cfg=dict(
        checkpoint='https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/swin_base_patch4_window7_224_20220317-e9b98025.pth'
    ),
)
channels = [128, 256, 512, 1024]
