# A classifier with 1 M parameters that learns to tell the generated shapes apart on a CPU.
_base_ = [
    '_base_/models/classifier.py',
    '_base_/backbones/focal_nano.py',
    '_base_/datasets/shapes_classification.py',
    '_base_/schedules/schedule_shapes_classification.py',
    '_base_/runtime/classification.py',
]

# No mixtures of images and no smooth labels: the training is short.
model = dict(
    data_preprocessor=dict(num_classes=_base_.num_classes),
    backbone=dict(
        _base_.backbone,
        stem_blocks=2,
        out_indices=(3,),
        window_size=(4, 4, 4, 2),
        focal_windows=(5, 3, 1, 1),
        expand_sizes=(2, 2, 0, 0),
        init_cfg=dict(type='Xavier', layer=['Linear', 'Conv2d'], distribution='normal'),
    ),
    head=dict(
        num_classes=_base_.num_classes,
        in_channels=_base_.channels[3],
        loss=dict(label_smooth_val=0.0),
    ),
    train_cfg=None,
)
