# Hybrid Task Cascade (https://arxiv.org/abs/1901.07518) without its semantic branch, which needs COCO-stuff: Cascade
# Mask R-CNN whose mask heads take the boxes of their own stage and the features of the previous mask head.
_base_ = 'cascade_mask_rcnn.py'

model = dict(
    type='HybridTaskCascade',
    roi_head=dict(
        type='HybridTaskCascadeRoIHead',
        interleaved=True,
        mask_info_flow=True,
        mask_head=[
            dict(_base_.model.roi_head.mask_head, type='HTCMaskHead', with_conv_res=with_conv_res)
            for with_conv_res in (False, True, True)
        ],
    ),
    test_cfg=dict(rcnn=dict(score_thr=0.001)),
)
