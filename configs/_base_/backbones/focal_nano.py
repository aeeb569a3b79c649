# Focal Transformer with 1 M parameters, for the generated shapes, from scratch.
backbone = dict(
    type='FocalTransformer',
    arch=dict(embed_dims=24, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8)),
    border='mask',
    conv_embed=True,
    drop_path_rate=0.0,
)
channels = [24, 48, 96, 192]
