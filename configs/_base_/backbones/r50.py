# ResNet-50 as in MMDetection's detectors: stem and first stage frozen, norms with the statistics of ImageNet.
backbone = dict(
    type='ResNet',
    depth=50,
    num_stages=4,
    frozen_stages=1,
    norm_cfg=dict(type='BN', requires_grad=True),
    norm_eval=True,
    style='pytorch',
    init_cfg=dict(type='Pretrained', checkpoint='https://download.pytorch.org/models/resnet50-0676ba61.pth'),
)
channels = [256, 512, 1024, 2048]
