_base_ = [
    '_base_/models/upernet_focal.py',
    '_base_/backbones/focal_tiny_swin_init.py',
    '_base_/datasets/ade20k.py',
    '_base_/schedules/schedule_160k.py',
    '_base_/runtime/segmentation.py',
]

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(_base_.backbone, drop_path_rate=_base_.drop_path.segmentation),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]),
)
