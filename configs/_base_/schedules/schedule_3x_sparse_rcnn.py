# MMDetection's Sparse R-CNN with ResNet-50: AdamW 2.5e-5, a weight decay of 1e-4, gradients cut at norm 1. Swin and Focal train with the same
# here, though the Swin paper (section 4.2) gives all its detectors one optimizer, AdamW 1e-4 and 0.05; others' Sparse R-CNN with transformers,
# such as PVT v2's, has MMDetection's.
_base_ = 'schedule_3x.py'

optim_wrapper = dict(optimizer=dict(lr=2.5e-5, weight_decay=1e-4), clip_grad=dict(max_norm=1, norm_type=2))
