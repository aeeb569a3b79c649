# PVT-Small of the first version with MMDetection's defaults (drop path 0.1 for all sizes and schedules).
backbone = dict(
    type='PyramidVisionTransformer',
    num_layers=[3, 4, 6, 3],
    init_cfg=dict(type='Pretrained', checkpoint='https://github.com/whai362/PVT/releases/download/v2/pvt_small.pth'),
)
channels = [64, 128, 320, 512]
