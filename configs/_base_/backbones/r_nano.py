# ResNet-18 with 24 to 192 channels, as many as focal_nano.py has, for the shapes, from scratch.
backbone = dict(
    type='ResNet',
    depth=18,
    base_channels=24,
    norm_cfg=dict(type='BN', requires_grad=True),
    norm_eval=False,
    style='pytorch',
)
channels = [24, 48, 96, 192]
