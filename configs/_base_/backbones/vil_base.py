_base_ = 'vil_small.py'

backbone = dict(arch='base', init_cfg=dict(checkpoint='{{$VIL_BASE:unset}}'))
drop_path = dict(retinanet=dict(schedule_1x=0.3, schedule_3x=0.3), mask_rcnn=dict(schedule_1x=0.3, schedule_3x=0.3))
