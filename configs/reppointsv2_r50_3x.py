# With the schedule of Swin-T and Focal-T, AdamW 1e-4: the Swin paper (section 4.2), where Table 5's ResNet-50 rows come from, trains both backbones
# with the same settings. The released recipe, SGD 0.01 for 12 epochs, is reppointsv2_r50_1x.py.
_base_ = ['_base_/reppointsv2.py', '_base_/coco_detection_ms_crop.py', '_base_/schedule_3x.py', '_base_/detection_runtime.py']

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

optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))  # the released RepPoints V2 recipe's
