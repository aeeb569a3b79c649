_base_ = 'focal_tiny.py'

backbone = dict(arch='large', init_cfg=dict(checkpoint='{{$FOCAL_LARGE:unset}}'))
channels = [192, 384, 768, 1536]
drop_path = dict(schedule_3x=0.2)  # MMDetection's for Swin-L in DINO and DyHead; the paper has none
