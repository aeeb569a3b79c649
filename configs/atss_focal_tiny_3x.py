_base_ = ['_base_/atss.py', '_base_/coco_detection_ms_crop.py', '_base_/schedule_3x.py', '_base_/detection_runtime.py']

model = dict(
    backbone=dict(
        type='FocalTransformer',
        arch='tiny',
        border='mask',
        drop_path_rate=0.3,
        out_indices=(1, 2, 3),
        init_cfg=dict(type='Pretrained', checkpoint='{{$FOCAL_TINY:unset}}')),  # path, URL, or none to train from scratch
    neck=dict(in_channels=[192, 384, 768]))
