# COCO 2017 boxes and masks with the large-scale jittering of coco_panoptic_lsj.py.
_base_ = 'coco_instance.py'

train_pipeline = [
    *_base_.train_pipeline[:2],
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomResize', scale=(1024, 1024), ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(
        type='RandomCrop', crop_size=(1024, 1024), crop_type='absolute', recompute_bbox=True, allow_negative_crop=True
    ),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1e-5, 1e-5), by_mask=True),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

# Test-time augmentation is left out: MMDetection merges boxes only, and Mask2Former derives its boxes from masks.
tta_model = None
tta_pipeline = None
