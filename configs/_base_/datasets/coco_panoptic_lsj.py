# COCO 2017 panoptic segments with the large-scale jittering of Mask2Former (its section 4.1, and MMDetection): images
# at 0.1 to 2 times the size that fits into 1024 × 1024, then cropped to it. Instances are evaluated as well.
_base_ = 'coco_panoptic.py'

train_pipeline = [
    *_base_.train_pipeline[:2],
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomResize', scale=(1024, 1024), ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(
        type='RandomCrop', crop_size=(1024, 1024), crop_type='absolute', recompute_bbox=True, allow_negative_crop=True
    ),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

val_evaluator = [
    *_base_.val_evaluator,
    dict(
        type='CheckedCocoMetric',
        ann_file=f'{_base_.data_root}/annotations/instances_val2017.json',
        metric=['bbox', 'segm'],
    ),
]
test_evaluator = val_evaluator
