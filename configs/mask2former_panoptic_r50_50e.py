_base_ = [
    '_base_/models/mask2former_panoptic.py',
    '_base_/backbones/r50.py',
    '_base_/datasets/coco_panoptic_lsj.py',
    '_base_/schedules/schedule_50e_mask2former.py',
    '_base_/runtime/panoptic.py',
]

model = dict(
    # As in MMDetection: all stages are trained, but not the affine parameters of their norms.
    backbone=dict(_base_.backbone, frozen_stages=-1, norm_cfg=dict(type='BN', requires_grad=False)),
    panoptic_head=dict(in_channels=_base_.channels),
)
