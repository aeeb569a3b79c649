"""CheckClassesHook compares segmentors and evaluators with the data sets before a run."""

from types import SimpleNamespace

import pytest
from mmengine.config import ConfigDict
from mmengine.dataset import ConcatDataset
from mmengine.runner import BaseLoop
from mmseg.evaluation import IoUMetric
from mmseg.registry import HOOKS, MODELS

from mmfocal.datasets.label_maps import LabelMapDataset
from mmfocal.errors import ConfigError

HEAD = dict(type='FCNHead', in_channels=64, channels=4, num_convs=1, num_classes=3, norm_cfg=dict(type='BN'))
BACKBONE = dict(type='ResNetV1c', depth=18, base_channels=8)


class Loop(BaseLoop):
    def __init__(self, dataset, *metrics):
        self._runner = None
        self.dataloader, self.evaluator = SimpleNamespace(dataset=dataset), SimpleNamespace(metrics=metrics)

    def run(self):
        pass


def segmentor(decode_head=HEAD, **heads):
    return dict(type='EncoderDecoder', backbone=BACKBONE, decode_head=decode_head, **heads)


def check(config, model=None, val=None, metric=None, train=None):
    """Runs the hook on a model and data sets of three classes."""
    model = model or segmentor(auxiliary_head=[HEAD, HEAD])
    val = LabelMapDataset(**{**config, **(val or {})}, test_mode=True)
    runner = SimpleNamespace(
        model=MODELS.build(ConfigDict(model)),
        _train_loop=Loop(train or LabelMapDataset(**config)),
        _val_loop=Loop(val, metric or IoUMetric()),
        _test_loop=dict(type='TestLoop'),
    )
    HOOKS.build(dict(type='CheckClassesHook')).before_run(runner)


def test_what_fits_passes(config):
    check(config)
    check(config, train=ConcatDataset([LabelMapDataset(**config)] * 2))
    check(config, val=dict(data_prefix=dict(img_path='images')), metric=IoUMetric(format_only=True))
    check(config, dict(type='SegTTAModel', module=segmentor()))
    check(config, dict(segmentor([HEAD, HEAD]), type='CascadeEncoderDecoder', num_stages=2))


@pytest.mark.parametrize(
    'model, sentence',
    [
        (segmentor(dict(HEAD, num_classes=7)), r'decode_head.num_classes=7 \(should be 3\)'),
        (
            segmentor(auxiliary_head=dict(HEAD, num_classes=19)),
            r'auxiliary_head.num_classes=19 \(should be 3\): train_dataloader.dataset has 3 classes',
        ),
        (
            segmentor(auxiliary_head=[HEAD, dict(HEAD, num_classes=19)]),
            r'auxiliary_head.1.num_classes=19 \(should be 3\): train',
        ),
        (segmentor(dict(HEAD, ignore_index=0)), 'decode_head.ignore_index=0: train_.*.dataset ignores 255'),
    ],
)
@pytest.mark.parametrize('tta', [False, True])
def test_wrong_heads(config, model, sentence, tta):
    with pytest.raises(ConfigError, match='^model.' + sentence):
        check(config, dict(type='SegTTAModel', module=model) if tta else model)


def mask2former(num_classes, class_weight):
    attention = dict(embed_dims=16, num_heads=2, batch_first=True)
    deformable = dict(embed_dims=16, num_heads=2, num_levels=3, num_points=1, batch_first=True)
    ffn = dict(embed_dims=16, feedforward_channels=16)
    pixel_decoder = dict(
        type='mmdet.MSDeformAttnPixelDecoder',
        num_outs=3,
        norm_cfg=dict(type='GN', num_groups=2),
        encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=deformable, ffn_cfg=ffn)),
        positional_encoding=dict(num_feats=8, normalize=True),
    )
    layer = dict(self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=ffn)
    return segmentor(
        dict(
            type='Mask2FormerHead',
            in_channels=[8, 16, 32, 64],
            strides=[4, 8, 16, 32],
            feat_channels=16,
            out_channels=16,
            num_classes=num_classes,
            num_queries=4,
            num_transformer_feat_level=3,
            pixel_decoder=pixel_decoder,
            transformer_decoder=dict(num_layers=1, return_intermediate=True, layer_cfg=layer),
            positional_encoding=dict(num_feats=8, normalize=True),
            loss_cls=dict(type='mmdet.CrossEntropyLoss', class_weight=class_weight),
        )
    )


def test_mask2former(config):
    check(config, mask2former(3, [1.0, 1.0, 1.0, 0.1]))
    sentence = r'^model.decode_head.num_classes=4 \(should be 3\)'
    with pytest.raises(ConfigError, match=sentence):
        check(config, mask2former(4, [1.0] * 4 + [0.1]))
    sentence = r'^len\(model.decode_head.loss_cls.class_weight\)=151 \(should be 4\): train_dataloader.dataset has 3'
    with pytest.raises(ConfigError, match=sentence):
        check(config, mask2former(3, [1.0] * 150 + [0.1]))


def test_classes_of_training_and_validation_differ(config):
    sentence = '^metainfo.classes of train_dataloader.dataset and of val_dataloader.dataset differ; '
    for classes in (('background', 'disc'), ('background', 'box', 'disc')):
        with pytest.raises(ConfigError, match=sentence):
            check(config, val=dict(metainfo=dict(classes=classes)))


def test_mean_iou_needs_label_maps(config):
    with pytest.raises(ConfigError, match='^val_evaluator needs label maps, but val_.* has none; set'):
        check(config, val=dict(data_prefix=dict(img_path='images')))


def test_a_data_set_that_ignores_another_label(config):
    with pytest.raises(ConfigError, match='^model.decode_head.ignore_index=255: train_.* ignores 0; '):
        check({**config, 'ignore_index': 0})


@pytest.mark.parametrize(
    'loss, message',
    [
        ('CrossEntropyLoss', '^model.decode_head.loss_decode.class_weight: CrossEntropyLoss fails at ignored pixels'),
        (
            'WeightedCrossEntropyLoss',
            '^model.decode_head.loss_decode.class_weight has 2 numbers; write 3, one per class',
        ),
    ],
)
def test_class_weights(config, loss, message):
    loss_decode = dict(type=loss, class_weight=[1.0, 2.0])
    with pytest.raises(ConfigError, match=message):
        check(config, segmentor(dict(HEAD, loss_decode=loss_decode)))
    check(config, segmentor(dict(HEAD, loss_decode=dict(type='WeightedCrossEntropyLoss', class_weight=[1.0] * 3))))


def test_wrapped_data_sets_of_different_classes(config):
    """MMDetection's ConcatDataset has a list of metainfo then, and MMEngine's refuses them."""
    other = LabelMapDataset(**{**config, 'metainfo': dict(classes=('background', 'box', 'disc'))})
    wrapped = SimpleNamespace(datasets=[LabelMapDataset(**config), SimpleNamespace(dataset=other)], metainfo=[{}, {}])
    with pytest.raises(
        ConfigError, match='^metainfo.classes of train_dataloader.dataset and of train_dataloader.dataset'
    ):
        check(config, train=wrapped)
    same = SimpleNamespace(datasets=[LabelMapDataset(**config), SimpleNamespace(dataset=LabelMapDataset(**config))])
    check(config, train=same)
