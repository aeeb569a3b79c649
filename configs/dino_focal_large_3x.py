# Five feature levels and activation checkpointing, as in MMDetection's DINO with Swin-L.
_base_ = [
    '_base_/models/dino.py',
    '_base_/backbones/focal_large.py',
    '_base_/datasets/coco_detection_ms_crop.py',
    '_base_/schedules/schedule_3x_dino.py',
    '_base_/runtime/detection.py',
]

model = dict(
    num_feature_levels=5,
    backbone=dict(_base_.backbone, drop_path_rate=_base_.drop_path.schedule_3x, out_indices=(0, 1, 2, 3), with_cp=True),
    neck=dict(in_channels=_base_.channels, num_outs=5),
    encoder=dict(layer_cfg=dict(self_attn_cfg=dict(num_levels=5))),
    decoder=dict(layer_cfg=dict(cross_attn_cfg=dict(num_levels=5))),
)

train_dataloader = dict(dataset=dict(filter_cfg=dict(filter_empty_gt=False)))  # as in MMDetection
