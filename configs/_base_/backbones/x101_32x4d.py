# The weights are those that MMDetection calls open-mmlab://resnext101_32x4d.
_base_ = 'r101.py'

backbone = dict(
    type='ResNeXt',
    groups=32,
    base_width=4,
    init_cfg=dict(checkpoint='https://download.openmmlab.com/pretrain/third_party/resnext101_32x4d-a5af3160.pth'),
)
