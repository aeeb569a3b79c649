_base_ = 'focal_tiny.py'

backbone = dict(arch='small', init_cfg=dict(checkpoint='{{$FOCAL_SMALL:unset}}'))
drop_path = dict(schedule_1x=0.2, schedule_3x=0.5)
