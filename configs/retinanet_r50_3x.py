_base_ = [
    '_base_/retinanet.py',
    '_base_/backbones/r50.py',
    '_base_/coco_detection_ms_crop.py',
    '_base_/schedule_3x.py',
    '_base_/detection_runtime.py',
]

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels[1:]))
