# ViL-Small with absolute positions and full attention in stages 3 and 4: the first version of the ViL paper, whose
# results the Focal paper lists. Stage 4 has no global token, so the mean of its tokens is classified, as released.
# Weight decay, warm-up and last learning rate are those of the released command (for Tiny), drop path is its file's;
# biases do not decay, unlike there.
_base_ = [
    '_base_/models/classifier.py',
    '_base_/datasets/imagenet.py',
    '_base_/schedules/schedule_300e_imagenet.py',
    '_base_/runtime/classification.py',
]

model = dict(
    backbone=dict(
        type='VisionLongformer',
        arch='small',
        attention=('sparse', 'sparse', 'full', 'full'),
        positions='absolute',
        img_size=_base_.image_size,
        drop_path_rate=0.1,
        final_norm=True,
        out_indices=(3,),
    ),
    head=dict(in_channels=768),
)

param_scheduler = [
    dict(type='WarmupCosineLR', warmup=5, end=300, by_epoch=True, convert_to_iter_based=True, eta_min_ratio=1e-3)
]
optim_wrapper = dict(
    optimizer=dict(weight_decay=0.1),
    paramwise_cfg=dict(custom_keys=dict(global_tokens=dict(decay_mult=0.0), _positions=dict(decay_mult=0.0))),
)
