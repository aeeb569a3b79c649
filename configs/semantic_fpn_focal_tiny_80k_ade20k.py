_base_ = [
    '_base_/semantic_fpn.py',
    '_base_/backbones/focal_tiny.py',
    '_base_/ade20k.py',
    '_base_/schedule_80k_fpn.py',
    '_base_/segmentation_runtime.py',
]

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(_base_.backbone, drop_path_rate=_base_.drop_path.segmentation),
    neck=dict(in_channels=_base_.channels))
