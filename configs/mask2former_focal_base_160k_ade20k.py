_base_ = [
    '_base_/models/mask2former_semantic.py',
    '_base_/backbones/focal_base.py',
    '_base_/datasets/ade20k_shortest_edge.py',
    '_base_/schedules/schedule_160k_mask2former.py',
    '_base_/runtime/segmentation.py',
]

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(_base_.backbone, drop_path_rate=_base_.drop_path.segmentation),
    decode_head=dict(in_channels=_base_.channels),
)
