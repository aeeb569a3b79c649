# Swin Transformer with the widths and depths of focal_nano.py, for the generated shapes, from scratch.
backbone = dict(
    type='SwinTransformer',
    embed_dims=24,
    depths=[1, 1, 2, 1],
    num_heads=[1, 2, 4, 8],
    window_size=7,
    drop_path_rate=0.0,
)
channels = [24, 48, 96, 192]
