# Swin's recipe is the same (https://arxiv.org/abs/2103.14030), with drop path 0.2, 0.3 and 0.5 for T, S and B.
_base_ = [
    '_base_/models/swin_classifier.py',
    '_base_/datasets/imagenet.py',
    '_base_/schedules/schedule_300e_imagenet.py',
    '_base_/runtime/classification.py',
]
