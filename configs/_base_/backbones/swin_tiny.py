# Swin-T. All Swin sizes here were pretrained on ImageNet-1K.
backbone = dict(
    type='SwinTransformer',
    embed_dims=96,
    depths=[2, 2, 6, 2],
    num_heads=[3, 6, 12, 24],
    window_size=7,
    convert_weights=True,
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_tiny_patch4_window7_224.pth',
    ),
)
channels = [96, 192, 384, 768]
# Its authors' configs: Mask R-CNN, and Cascade Mask R-CNN for 3x.
drop_path = dict(schedule_1x=0.1, schedule_3x=0.2)
