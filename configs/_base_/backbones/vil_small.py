# ViL-Small with absolute positions: the first version of the ViL paper, whose results the Focal paper lists.
# VIL_SMALL, VIL_MEDIUM and VIL_BASE name the ImageNet weights: a path, a URL, or none to train from scratch.
backbone = dict(
    type='VisionLongformer',
    arch='small',
    positions='absolute',
    img_size=1333,  # tables for 1344 pixels
    init_cfg=dict(type='Pretrained', checkpoint='{{$VIL_SMALL:unset}}'),
)
channels = [96, 192, 384, 768]
# By method and schedule, from the README of the authors' detection code, for the second version of ViL; the rates of
# the first version are not published.
drop_path = dict(retinanet=dict(schedule_1x=0.1, schedule_3x=0.2), mask_rcnn=dict(schedule_1x=0.2, schedule_3x=0.2))
