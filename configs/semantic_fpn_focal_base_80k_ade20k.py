_base_ = [
    '_base_/models/semantic_fpn.py',
    '_base_/backbones/focal_base.py',
    '_base_/datasets/ade20k.py',
    '_base_/schedules/schedule_80k_fpn.py',
    '_base_/runtime/segmentation.py',
]

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(_base_.backbone, drop_path_rate=_base_.drop_path.segmentation),
    neck=dict(in_channels=_base_.channels),
)
