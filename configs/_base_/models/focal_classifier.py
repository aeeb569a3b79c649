# Focal-T as released: edges of the map see the opposite edge, the 7 × 7 map of the last stage is a single window, which
# has no ring, and weights start as in the released code, whose results these are. Other configs start from ours.
_base_ = 'classifier.py'

model = dict(
    backbone=dict(
        type='FocalTransformer',
        arch='tiny',
        border='wrap',
        expand_sizes=(3, 3, 3, 0),
        out_indices=(3,),
        drop_path_rate=0.2,
        init='released',
    ),
    head=dict(in_channels=768),
)
