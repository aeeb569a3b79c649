_base_ = [
    '_base_/models/upernet_focal.py',
    '_base_/backbones/focal_tiny.py',
    '_base_/datasets/cityscapes.py',
    '_base_/schedules/schedule_80k.py',
    '_base_/runtime/segmentation.py',
]

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(_base_.backbone, drop_path_rate=_base_.drop_path.segmentation),
    decode_head=dict(in_channels=_base_.channels, num_classes=19),
    auxiliary_head=dict(in_channels=_base_.channels[2], num_classes=19),
    # The stride is two thirds of the crop, as SETR's on Cityscapes.
    test_cfg=dict(mode='slide', crop_size=_base_.crop_size, stride=(341, 683)),
)
