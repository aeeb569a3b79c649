# ATSS with six blocks of DyHead (https://arxiv.org/abs/2106.08322) and MMDetection's settings for Swin-L. MMDetection
# trains 24 epochs at shorter sides 480–1200 and tests at 1200; this is the 3x schedule of the other configs.
_base_ = [
    '_base_/models/atss.py',
    '_base_/backbones/focal_large.py',
    '_base_/datasets/coco_detection_ms_crop.py',
    '_base_/schedules/schedule_3x.py',
    '_base_/runtime/detection.py',
]

model = dict(
    data_preprocessor=dict(pad_size_divisor=128),
    backbone=dict(_base_.backbone, drop_path_rate=_base_.drop_path.schedule_3x),
    neck=[
        dict(_base_.model.neck, in_channels=_base_.channels[1:]),
        dict(type='DyHead', in_channels=256, out_channels=256, num_blocks=6, zero_init_offset=False),
    ],
    bbox_head=dict(stacked_convs=0, pred_kernel_size=1, anchor_generator=dict(center_offset=0.5)),
)

optim_wrapper = dict(optimizer=dict(lr=5e-5))
