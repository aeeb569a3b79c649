# Mask2Former for the 80 thing classes of COCO.
_base_ = 'mask2former_panoptic.py'

model = dict(
    data_preprocessor=dict(
        pad_seg=False, batch_augments=[dict(type='BatchFixedSizePad', size=(1024, 1024), pad_mask=True)]
    ),
    panoptic_head=dict(num_stuff_classes=0, loss_cls=dict(class_weight=[1.0] * 80 + [0.1])),
    panoptic_fusion_head=dict(num_stuff_classes=0),
    test_cfg=dict(panoptic_on=False),
)
