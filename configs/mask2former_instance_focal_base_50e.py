_base_ = [
    '_base_/models/mask2former_instance.py',
    '_base_/backbones/focal_base.py',
    '_base_/datasets/coco_instance_lsj.py',
    '_base_/schedules/schedule_50e_mask2former.py',
    '_base_/runtime/detection.py',
]

model = dict(
    backbone=dict(_base_.backbone, drop_path_rate=0.3),  # MMDetection's for Swin-T, -S and -B
    panoptic_head=dict(in_channels=_base_.channels),
)
