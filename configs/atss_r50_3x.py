_base_ = ['_base_/atss.py', '_base_/coco_detection_ms_crop.py', '_base_/schedule_3x.py', '_base_/detection_runtime.py']

model = dict(
    backbone=dict(
        type='ResNet',
        depth=50,
        num_stages=4,
        out_indices=(1, 2, 3),
        frozen_stages=1,
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=True,
        style='pytorch',
        init_cfg=dict(type='Pretrained', checkpoint='https://download.pytorch.org/models/resnet50-0676ba61.pth')),
    neck=dict(in_channels=[512, 1024, 2048]))
