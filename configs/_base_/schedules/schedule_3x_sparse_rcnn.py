# MMDetection's Sparse R-CNN with ResNet-50: AdamW 2.5e-5, weight decay 1e-4, gradients clipped to norm 1. Swin and
# Focal train with the same here. The Swin paper (section 4.2) has one optimizer for all detectors, AdamW 1e-4 and
# 0.05; Sparse R-CNN with other transformers, such as PVT v2, uses MMDetection's.
_base_ = 'schedule_3x.py'

optim_wrapper = dict(optimizer=dict(lr=2.5e-5, weight_decay=1e-4), clip_grad=dict(max_norm=1, norm_type=2))
