_base_ = ['_base_/reppointsv2.py', '_base_/coco_detection_ms_crop.py', '_base_/schedule_3x.py', '_base_/detection_runtime.py']

model = dict(
    backbone=dict(
        type='FocalTransformer',
        arch='tiny',
        border='mask',
        drop_path_rate=0.3,
        out_indices=(1, 2, 3),
        init_cfg=dict(type='Pretrained', checkpoint='{{$FOCAL_TINY:unset}}')),  # path, URL, or none to train from scratch
    neck=dict(in_channels=[192, 384, 768]))

optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))  # the released RepPoints V2 recipe's
