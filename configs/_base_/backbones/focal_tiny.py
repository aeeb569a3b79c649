# Focal-T. FOCAL_TINY names the weights: a path, a URL, or none to train from scratch. The other sizes have
# FOCAL_SMALL, FOCAL_BASE and FOCAL_LARGE.
backbone = dict(
    type='FocalTransformer',
    arch='tiny',
    border='mask',  # as the paper describes it; the released classifiers wrap
    init_cfg=dict(type='Pretrained', checkpoint='{{$FOCAL_TINY:unset}}'),
)
channels = [96, 192, 384, 768]
# 1x, 3x: section 4.2 of the paper, as for Focal-S and Focal-B. Segmentation: Swin's for all sizes; the paper has none.
drop_path = dict(schedule_1x=0.2, schedule_3x=0.3, segmentation=0.3)
