_base_ = 'swin_tiny.py'

backbone = dict(
    depths=[2, 2, 18, 2],
    init_cfg=dict(
        checkpoint='https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_small_patch4_window7_224.pth'
    ),
)
# 3x: its authors' configs; they have no 1x, which uses the same rate here.
drop_path = dict(schedule_1x=0.2, schedule_3x=0.2)
