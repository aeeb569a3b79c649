# COCO 2017 boxes; shorter sides of 640–800 in training, without crops, as in the 3x of ViL's authors.
_base_ = 'coco_detection.py'

scales = [(1333, side) for side in range(640, 801, 32)]
resize = dict(type='RandomChoiceResize', scales=scales, keep_ratio=True)
train_pipeline = [*_base_.train_pipeline[:2], resize, *_base_.train_pipeline[3:]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
