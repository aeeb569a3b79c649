# ResNet-18 with 24 to 192 channels, those of focal_nano.py, for the generated shapes, from scratch.
backbone = dict(
    type='ResNet',
    depth=18,
    base_channels=24,
    norm_cfg=dict(type='BN', requires_grad=True),
    norm_eval=False,
    style='pytorch',
)
channels = [24, 48, 96, 192]
