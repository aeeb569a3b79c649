# ADE20K for Mask2Former: shorter sides of 256–1024 before the crop in training, as in MMSegmentation.
_base_ = 'ade20k.py'

train_pipeline = [
    *_base_.train_pipeline[:2],
    dict(
        type='RandomChoiceResize',
        scales=[int(512 * ratio / 10) for ratio in range(5, 21)],
        resize_type='ResizeShortestEdge',
        max_size=2048,
    ),
    *_base_.train_pipeline[3:],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
