# Swin-T for MMSegmentation, whose SwinTransformer takes the weights that it has converted. All Swin sizes here were
# pretrained on ImageNet-1K.
backbone = dict(
    type='SwinTransformer',
    embed_dims=96,
    depths=[2, 2, 6, 2],
    num_heads=[3, 6, 12, 24],
    window_size=7,
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/swin_tiny_patch4_window7_224_20220317-1cdeb081.pth',
    ),
)
channels = [96, 192, 384, 768]
drop_path = dict(segmentation=0.3)  # its authors' and MMSegmentation's ADE20K configs, all sizes
