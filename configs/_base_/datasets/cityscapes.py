# Cityscapes, 19 classes, 512 × 1024 crops, as in MMSegmentation. Folder: environment variable CITYSCAPES_ROOT,
# default data/cityscapes/.
_base_ = 'ade20k.py'

data_root = '{{$CITYSCAPES_ROOT:data/cityscapes/}}'
crop_size = (512, 1024)

train_pipeline = [
    *_base_.train_pipeline[:2],
    dict(type='RandomResize', scale=(2048, 1024), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    *_base_.train_pipeline[4:],
]
test_pipeline = [
    _base_.test_pipeline[0],
    dict(type='Resize', scale=(2048, 1024), keep_ratio=True),
    *_base_.test_pipeline[2:],
]
dataset = dict(type='CheckedCityscapesDataset', data_root=data_root)
train_dataloader = dict(
    dataset=dict(
        dataset, data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'), pipeline=train_pipeline
    )
)
val_dataloader = dict(
    dataset=dict(
        dataset, data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'), pipeline=test_pipeline
    )
)
test_dataloader = val_dataloader

scales = [(int(2048 * ratio), int(1024 * ratio)) for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)]
tta_pipeline = [
    _base_.tta_pipeline[0],
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale=scale, keep_ratio=True) for scale in scales],
            *_base_.tta_pipeline[1].transforms[1:],
        ],
    ),
]
