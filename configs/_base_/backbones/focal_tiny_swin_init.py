# Focal-T that starts from Swin-T's ImageNet-1K weights, which are downloaded. Patches are merged and windows shifted as
# in Swin; the ring and the pooled tokens start so that Swin's function is about kept (docs/models/weights.md).
_base_ = 'focal_tiny.py'

backbone = dict(
    downsample='merge',
    use_shift=True,
    init_cfg=dict(
        checkpoint='https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_tiny_patch4_window7_224.pth'
    ),
)
