# Focal-T that starts from Swin-T's ImageNet-1K weights, which are downloaded: patches are merged and windows shifted as
# in Swin, and the ring and the pooled tokens start so that Swin's function is about kept (docs/models/weights.md). The
# edges of the map see nothing beyond it, as in Swin and in the detectors. The classifier's own layer starts anew.
_base_ = [
    '_base_/models/focal_classifier.py',
    '_base_/datasets/imagenet.py',
    '_base_/schedules/schedule_30e_imagenet.py',
    '_base_/runtime/classification.py',
]

swin = 'https://github.com/SwinTransformer/storage/releases/download/'
model = dict(
    backbone=dict(
        border='mask',
        downsample='merge',
        use_shift=True,
        init='mean',
        init_cfg=dict(type='Pretrained', checkpoint=f'{swin}v1.0.0/swin_tiny_patch4_window7_224.pth'),
    )
)
