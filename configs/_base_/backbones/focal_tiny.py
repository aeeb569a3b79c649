# Focal-T. FOCAL_TINY names the weights: a path, a URL, or none to train from scratch; FOCAL_SMALL, … those of the other sizes.
backbone = dict(
    type='FocalTransformer',
    arch='tiny',
    border='mask',  # what the paper says of the fine level beyond the map
    init_cfg=dict(type='Pretrained', checkpoint='{{$FOCAL_TINY:unset}}'),
)
channels = [96, 192, 384, 768]
# 1x, 3x: Focal paper, section 4.2, as for Focal-S and Focal-B. Segmentation: Swin's, for all sizes, since the paper names none.
drop_path = dict(schedule_1x=0.2, schedule_3x=0.3, segmentation=0.3)
