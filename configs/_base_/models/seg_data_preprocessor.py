# Mean and standard deviation of ImageNet in RGB, with which all backbones here were pretrained. A config adds the crop
# size.
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
