# Vision Longformer with the widths and depths of focal_nano.py, for the generated shapes, from scratch.
backbone = dict(
    type='VisionLongformer',
    arch=dict(embed_dims=(24, 48, 96, 192), depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8)),
    img_size=160,  # the shapes are up to 136 pixels
    drop_path_rate=0.0,
)
channels = [24, 48, 96, 192]
