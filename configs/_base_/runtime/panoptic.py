# For models with thing and stuff heads; the best checkpoint is that with the best panoptic quality.
_base_ = 'detection.py'

default_hooks = dict(checkpoint=dict(save_best='coco_panoptic/PQ'))
