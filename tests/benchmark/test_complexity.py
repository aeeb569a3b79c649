"""FLOPs in MMEngine's and PyTorch's counters, and of whole models."""

from pathlib import Path

import pytest
import torch
from mmcv import ops
from mmengine import Config, ConfigDict
from mmengine.analysis import get_model_complexity_info
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import mmfocal.registration  # noqa: F401
from mmfocal.benchmark import complexity
from mmfocal.models import FocalTransformer

ROOT = Path(__file__).parents[2]
ARCH = dict(embed_dims=16, depths=(1, 2, 1, 1), num_heads=(1, 2, 4, 8))


def by_hand(arch, expand, windows, levels, side):
    """Multiply-adds of the attention's two products: tokens · channels · keys · 2."""
    total = 0
    for i in range(4):
        tokens = (-(-side // (4 * 2**i)) // 7 * 7) ** 2  # the map is a whole number of windows
        keys = (7 + 2 * expand) ** 2 + sum((windows[i] + 2**k - 1) ** 2 for k in range(levels - 1))
        total += arch['depths'][i] * tokens * arch['embed_dims'] * 2**i * keys * 2
    return total


@pytest.mark.parametrize('expand, levels', [(3, 2), (0, 1), (2, 3)])
def test_mmengine_counts_the_attention(expand, levels):
    model = FocalTransformer(arch=ARCH, expand_sizes=(expand,) * 4, focal_levels=(levels,) * 4).eval()
    info = get_model_complexity_info(model, (3, 224, 224), show_table=False, show_arch=False)
    reference = FocalTransformer(
        arch=ARCH, expand_sizes=(expand,) * 4, focal_levels=(levels,) * 4, attention_backend='reference'
    ).eval()
    slow = get_model_complexity_info(reference, (3, 224, 224), show_table=False, show_arch=False)
    assert info['flops'] == pytest.approx(
        slow['flops'], rel=1e-4
    )  # whose einsums MMEngine counts by itself, to four digits
    assert info['flops'] > by_hand(ARCH, expand, (7, 5, 3, 1), levels, 224)


def test_torch_counts_forward_and_backward():
    model = FocalTransformer(arch=ARCH, drop_path_rate=0.0)
    with FlopCounterMode(display=False) as forward:
        outs = model(torch.zeros(1, 3, 224, 224))
    attention = torch.ops.mmfocal.focal_attention
    expected = 2 * by_hand(ARCH, 3, (7, 5, 3, 1), 2, 224)
    assert forward.get_flop_counts()['Global'][attention] == expected
    with FlopCounterMode(display=False) as backward:
        sum(out.sum() for out in outs).backward()
    assert backward.get_flop_counts()['Global'][torch.ops.mmfocal.focal_attention_backward] == expected * 5 // 2


class Called(nn.Module):
    """A module, or a function, in the form of OpenMMLab's models."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, image, data_samples, mode):
        return self.module(image)


def total(module, **size):
    return complexity.count(Called(module), **size).flops['']


class OfTokens(nn.Module):
    """Multi-head attention over the 64 × 32 pixels of an image, 3 channels."""

    def __init__(self, batch_first=True, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(3, 3, batch_first=batch_first)
        self.options = options

    def forward(self, image):
        tokens = image.flatten(2).permute((0, 2, 1) if self.attention.batch_first else (2, 0, 1))
        return self.attention(tokens, tokens, tokens, **self.options)[0]


@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(need_weights=False),
        dict(batch_first=False),
        dict(batch_first=False, need_weights=False),
        dict(attn_mask=torch.zeros(2048, 2048)),
        dict(need_weights=False, attn_mask=torch.zeros(2048, 2048)),
    ],
)
def test_every_way_of_multi_head_attention_counts_the_same(options):
    fast = torch.backends.mha.get_fastpath_enabled()
    assert total(OfTokens(**options), size=(64, 32)) == 4 * 2048 * 3 * 3 + 2 * 2048 * 2048 * 3
    assert torch.backends.mha.get_fastpath_enabled() == fast


class Deformable(nn.Module):
    def __init__(self, modulated):
        super().__init__()
        self.conv = (ops.ModulatedDeformConv2d if modulated else ops.DeformConv2d)(
            3, 6, 3, stride=2, padding=1, groups=3
        )

    def forward(self, image):
        sides = [side // 2 for side in image.shape[-2:]]
        arguments = [image.new_zeros(1, channels, *sides) for channels in (18, 9)]
        return self.conv(image, *arguments[: 1 + isinstance(self.conv, ops.ModulatedDeformConv2d)])


@pytest.mark.parametrize('modulated', [False, True])
def test_deformable_convolutions(modulated):
    assert total(Deformable(modulated), size=(64, 32)) == 16 * 32 * 6 * 1 * 9  # one input channel a group


class Odd(nn.Module):
    """Two layers of which one is in vain, and an operator that no counter knows."""

    def __init__(self):
        super().__init__()
        self.used, self.vain = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 5, 1)
        self.used.weight.requires_grad_(False)

    def forward(self, image):
        self.vain(image)
        return self.used(image).cumsum(1).cumsum(2)


def test_unused_layers_count_and_unknown_operators_are_listed():
    done = complexity.count(Called(Odd()), (64, 32))
    assert done.flops == {'': 2048 * 21, 'module': 2048 * 21, 'module.used': 2048 * 6, 'module.vain': 2048 * 15}
    assert done.params == {'': 28, 'module': 28, 'module.used': 8, 'module.vain': 20} and done.frozen == 6
    assert done.operators == {'conv': 2048 * 21} and done.not_counted == {'cumsum': 2}


BOX_CODER = dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[0.1] * 4)
CLASSES, BOXES = dict(type='CrossEntropyLoss'), dict(type='L1Loss')
NORM = dict(type='SyncBN')


def two_stage(kind):
    """A tiny Mask, Cascade Mask or Sparse R-CNN over maps of strides 4 and 8; 16 channels."""
    extractor = dict(type='SingleRoIExtractor', out_channels=16, featmap_strides=[4, 8])
    box_extractor = dict(extractor, roi_layer=dict(type='RoIAlign', output_size=7))
    mask_extractor = dict(extractor, roi_layer=dict(type='RoIAlign', output_size=14))
    box_head = dict(type='Shared2FCBBoxHead', in_channels=16, fc_out_channels=32, num_classes=3, bbox_coder=BOX_CODER)
    mask_head = dict(type='FCNMaskHead', num_convs=1, in_channels=16, conv_out_channels=8, num_classes=3)
    rpn_head = dict(
        type='RPNHead',
        in_channels=16,
        feat_channels=16,
        bbox_coder=BOX_CODER,
        anchor_generator=dict(type='AnchorGenerator', scales=[8], ratios=[1.0], strides=[4, 8]),
    )
    roi_head = dict(type='StandardRoIHead', bbox_head=box_head, mask_head=mask_head)
    test_cfg = dict(
        rpn=dict(nms_pre=9, max_per_img=9, nms=dict(type='nms', iou_threshold=0.7)),
        rcnn=dict(score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=5, mask_thr_binary=0.5),
    )
    if kind == 'CascadeRCNN':
        roi_head = dict(
            type='CascadeRoIHead',
            num_stages=3,
            stage_loss_weights=[1] * 3,
            bbox_head=[box_head] * 3,
            mask_head=[mask_head] * 3,
        )
    elif kind == 'SparseRCNN':
        dynamic = dict(type='DynamicConv', in_channels=16, feat_channels=4, out_channels=16)
        box_head = dict(
            type='DIIHead',
            num_classes=3,
            num_heads=4,
            in_channels=16,
            feedforward_channels=32,
            dynamic_conv_cfg=dynamic,
            loss_cls=dict(type='FocalLoss', use_sigmoid=True),
            bbox_coder=BOX_CODER,
        )
        roi_head = dict(
            type='SparseRoIHead',
            num_stages=2,
            stage_loss_weights=[1] * 2,
            proposal_feature_channel=16,
            bbox_head=[box_head] * 2,
        )
        rpn_head = dict(type='EmbeddingRPNHead', num_proposals=30, proposal_feature_channel=16)
        test_cfg = dict(rpn=None, rcnn=dict(max_per_img=5))
    extractors = dict(bbox_roi_extractor=box_extractor)
    if kind != 'SparseRCNN':
        extractors.update(mask_roi_extractor=mask_extractor)
    init_default_scope('mmdet')
    return MODELS.build(
        ConfigDict(
            type=kind,
            data_preprocessor=dict(type='DetDataPreprocessor'),
            train_cfg=None,
            test_cfg=test_cfg,
            backbone=dict(
                type='FocalTransformer',
                arch=dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)),
                out_indices=(0, 1),
            ),
            neck=dict(type='FPN', in_channels=[8, 16], out_channels=16, num_outs=2, norm_cfg=NORM),
            rpn_head=rpn_head,
            roi_head=dict(roi_head, **extractors),
        )
    )


BOX_HEAD = 7 * 7 * 16 * 32 + 32 * 32 + 32 * (4 + 12)
MASK_HEAD = 14 * 14 * 16 * 8 * 9 + 28 * 28 * 8 * 8 + 28 * 28 * 8 * 3


@pytest.mark.parametrize('kind, stages', [('MaskRCNN', 1), ('CascadeRCNN', 3)])
def test_two_stages_take_1000_proposals_and_100_detections(kind, stages):
    model = two_stage(kind)
    done = complexity.count(model, (64, 64))
    assert done.flops['roi_head.bbox_head'] == stages * 1000 * BOX_HEAD
    assert done.flops['roi_head.mask_head'] == stages * 100 * MASK_HEAD
    assert done.flops['rpn_head'] == (16 * 16 + 8 * 8) * 16 * (16 * 9 + 5)
    assert done.not_counted['RoIAlignFunction'] == 2 * stages
    assert done.flops[''] == sum(done.flops[name] for name in ('backbone', 'neck', 'rpn_head', 'roi_head'))


def test_sparse_rcnn_takes_its_own_proposals_and_all_stages():
    done = complexity.count(two_stage('SparseRCNN'), (64, 64))
    first, second = (done.flops[f'roi_head.bbox_head.{stage}'] for stage in range(2))
    assert first == second > 0
    assert done.operators['bmm'] == 2 * 30 * (
        49 * 16 * 4 * 2 + 30 * 16 * 2
    )  # of the dynamic convolutions and of the attention


PRODUCTS = ('conv', 'linear', 'matmul', 'mm', 'bmm', 'addmm', 'baddbmm', 'einsum', 'focal_attention')


@pytest.mark.parametrize('kind', ['MaskRCNN', 'CascadeRCNN', 'SparseRCNN', 'Swin', 'PVT', 'Mask2Former'])
def test_products_are_those_that_torch_counts(kind, monkeypatch):
    init_default_scope('mmdet')
    if kind == 'Swin':
        model = Called(
            MODELS.build(dict(type='SwinTransformer', embed_dims=8, depths=(2, 1, 1, 1), num_heads=(1, 1, 1, 1)))
        )
    elif kind == 'PVT':
        model = Called(MODELS.build(dict(type='PyramidVisionTransformer', embed_dims=8, num_layers=(1, 1, 1, 1))))
    elif kind == 'Mask2Former':
        monkeypatch.setenv('FOCAL_TINY', 'none')
        cfg = Config.fromfile(ROOT / 'configs/mask2former_focal_tiny_160k_ade20k.py')
        cfg.model.backbone.arch, head = ARCH, cfg.model.decode_head
        head.in_channels, head.transformer_decoder.num_layers, head.pixel_decoder.encoder.num_layers = (
            [16, 32, 64, 128],
            2,
            1,
        )
        init_default_scope('mmseg')
        model = MODELS.build(cfg.model)
    else:
        model = two_stage(kind)
    done = complexity.count(model, (64, 96))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 96, 64))
    assert sum(done.operators.get(name, 0) for name in PRODUCTS) == pytest.approx(
        counter.get_total_flops() / 2, rel=1e-5
    )  # MMEngine rounds einsums to four digits
