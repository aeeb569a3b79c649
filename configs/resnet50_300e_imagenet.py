# A ResNet with the recipe of the transformers, for comparison at equal training; Table 2 quotes a ResNet-50 that was
# trained for 90 epochs with less augmentation.
_base_ = [
    '_base_/models/classifier.py',
    '_base_/datasets/imagenet.py',
    '_base_/schedules/schedule_300e_imagenet.py',
    '_base_/runtime/classification.py',
]

model = dict(
    backbone=dict(type='ResNet', depth=50, num_stages=4, out_indices=(3,), style='pytorch'),
    head=dict(in_channels=2048),
)
