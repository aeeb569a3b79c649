# A Swin Transformer of focal_nano.py's widths and depths, for the shapes, from scratch.
backbone = dict(
    type='SwinTransformer',
    embed_dims=24,
    depths=[1, 1, 2, 1],
    num_heads=[1, 2, 4, 8],
    window_size=7,
    drop_path_rate=0.0,
)
channels = [24, 48, 96, 192]
