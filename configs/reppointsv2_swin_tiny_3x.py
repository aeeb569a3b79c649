_base_ = ['_base_/reppointsv2.py', '_base_/coco_detection_ms_crop.py', '_base_/schedule_3x.py', '_base_/detection_runtime.py']

model = dict(
    backbone=dict(
        type='SwinTransformer',
        embed_dims=96,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        window_size=7,
        drop_path_rate=0.3,
        out_indices=(1, 2, 3),
        convert_weights=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_tiny_patch4_window7_224.pth')),
    neck=dict(in_channels=[192, 384, 768]))

optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))  # the released RepPoints V2 recipe's
