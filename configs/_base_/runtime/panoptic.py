# For models with heads of things and of stuff; the best checkpoint is that of the best panoptic quality.
_base_ = 'detection.py'

default_hooks = dict(checkpoint=dict(save_best='coco_panoptic/PQ'))
