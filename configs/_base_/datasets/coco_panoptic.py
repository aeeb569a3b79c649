# COCO 2017 panoptic segments at 800 × 1333: annotations/panoptic_{train,val}2017.json and folders of the same names
# with one PNG per image. Reading them needs panopticapi.
_base_ = 'coco_detection.py'

load_segments = dict(type='LoadPanopticAnnotations')
train_pipeline = [_base_.train_pipeline[0], load_segments, *_base_.train_pipeline[2:]]
test_pipeline = [*_base_.test_pipeline[:2], load_segments, _base_.test_pipeline[3]]
train_dataloader = dict(
    dataset=dict(
        type='CheckedCocoPanopticDataset',
        ann_file='annotations/panoptic_train2017.json',
        data_prefix=dict(seg='annotations/panoptic_train2017/'),
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        type='CheckedCocoPanopticDataset',
        ann_file='annotations/panoptic_val2017.json',
        data_prefix=dict(seg='annotations/panoptic_val2017/'),
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader

val_evaluator = [
    dict(
        type='CheckedCocoPanopticMetric',
        ann_file=f'{_base_.data_root}/annotations/panoptic_val2017.json',
        seg_prefix=f'{_base_.data_root}/annotations/panoptic_val2017/',
    )
]
test_evaluator = val_evaluator

# Test-time augmentation is left out: MMDetection merges boxes only, not segments.
tta_model = None
tta_pipeline = None
