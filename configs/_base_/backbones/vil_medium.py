_base_ = 'vil_small.py'

backbone = dict(arch='medium', init_cfg=dict(checkpoint='{{$VIL_MEDIUM:unset}}'))
drop_path = dict(retinanet=dict(schedule_1x=0.2, schedule_3x=0.3), mask_rcnn=dict(schedule_1x=0.2, schedule_3x=0.3))
