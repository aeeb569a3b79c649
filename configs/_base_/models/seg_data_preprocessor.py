# ImageNet's mean and standard deviation, in RGB, as all backbones here were pretrained with; a config adds the size of the training crops.
model = dict(
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    )
)
