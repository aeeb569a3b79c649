# The weights are those that MMDetection calls open-mmlab://resnext101_64x4d.
_base_ = 'x101_32x4d.py'

backbone = dict(
    groups=64,
    init_cfg=dict(checkpoint='https://download.openmmlab.com/pretrain/third_party/resnext101_64x4d-ee2c6f71.pth'),
)
