_base_ = 'focal_tiny.py'

backbone = dict(arch='base', init_cfg=dict(checkpoint='{{$FOCAL_BASE:unset}}'))
channels = [128, 256, 512, 1024]
drop_path = dict(schedule_1x=0.3, schedule_3x=0.5)
