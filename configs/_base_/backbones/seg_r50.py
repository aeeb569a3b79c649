# ResNet-50 as in MMSegmentation's UPerNet: a stem of three convolutions, nothing frozen, norms over the batch of all
# GPUs. The weights are those that MMSegmentation calls open-mmlab://resnet50_v1c.
backbone = dict(
    type='ResNetV1c',
    depth=50,
    norm_cfg=dict(type='SyncBN', requires_grad=True),
    init_cfg=dict(
        type='Pretrained', checkpoint='https://download.openmmlab.com/pretrain/third_party/resnet50_v1c-2cccc1ad.pth'
    ),
)
channels = [256, 512, 1024, 2048]
