_base_ = [
    '_base_/retinanet.py',
    '_base_/backbones/pvt_large.py',
    '_base_/coco_detection.py',
    '_base_/schedule_1x_pvt.py',
    '_base_/detection_runtime.py',
]

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels[1:]))
