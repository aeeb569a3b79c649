# One generated shape per image, a folder per class (mmfocal make-shapes --classification). Folder: environment variable
# SHAPES_CLASSIFICATION_ROOT, default data/shapes_classification/.
_base_ = 'imagenet.py'

data_root = '{{$SHAPES_CLASSIFICATION_ROOT:data/shapes_classification/}}'
num_classes = 4
image_size = 64
metainfo = dict(classes=('circle', 'cross', 'square', 'triangle'))  # folders come in the order of their names

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(image_size, image_size)),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(image_size, image_size)),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=50,
    num_workers=1,
    dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=test_pipeline),
)
test_dataloader = val_dataloader

val_evaluator = dict(topk=(1,))
test_evaluator = val_evaluator
