# SegFormer's head (https://arxiv.org/abs/2105.15203) with 256 channels, as MMSegmentation has it for all sizes. A
# config adds the backbone, the channels of its four stages and the crop size.
_base_ = 'seg_data_preprocessor.py'

model = dict(
    type='EncoderDecoder',
    decode_head=dict(
        type='SegformerHead',
        in_index=[0, 1, 2, 3],
        channels=256,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
