"""What works without MMDetection, without MMSegmentation, without both, without MMPretrain and torchvision."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = """
import importlib.util, runpy, sys
blocked, runs = {blocked!r}, {runs!r}
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in blocked else find_spec(name, package)

class Blocker:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split('.')[0] in blocked:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)

sys.meta_path.insert(0, Blocker)
import mmfocal.registration
"""
BACKBONE = """
import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.config import ConfigDict
backbone = dict(type='FocalTransformer', arch=dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)))
"""
A_SEGMENTOR_LEARNS = """
init_default_scope('mmseg')
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
head = dict(channels=8, num_classes=3, norm_cfg=dict(type='BN'))
model = MODELS.build(ConfigDict(
    type='EncoderDecoder', backbone=backbone,
    data_preprocessor=dict(type='SegDataPreProcessor', size=(64, 64)),
    decode_head=dict(type='UPerHead', in_channels=[8, 16, 32, 64], in_index=[0, 1, 2, 3], **head),
    auxiliary_head=dict(type='FCNHead', in_channels=32, in_index=2, num_convs=1, **head)))
sample = SegDataSample(gt_sem_seg=PixelData(data=torch.randint(3, (1, 64, 64))))
"""
A_DETECTOR_LEARNS = """
init_default_scope('mmdet')
from mmengine.structures import InstanceData
from mmdet.structures import DetDataSample
model = MODELS.build(ConfigDict(
    type='RetinaNet', data_preprocessor=dict(type='DetDataPreprocessor'), backbone=backbone,
    neck=dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=8, num_outs=4),
    bbox_head=dict(
        type='RetinaHead', num_classes=3, in_channels=8, feat_channels=8, stacked_convs=1,
        anchor_generator=dict(type='AnchorGenerator', scales=[4], ratios=[1.], strides=[4, 8, 16, 32])),
    train_cfg=dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0),
                   sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1)))
sample = DetDataSample(metainfo=dict(img_shape=(64, 64)), gt_instances=InstanceData(
    bboxes=torch.tensor([[8., 8., 40., 40.]]), labels=torch.tensor([1])))
"""
STEP = """
from mmengine.optim import OptimWrapper
optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
weight = model.backbone.stages[0].blocks[0].attn.qkv.weight
before = weight.detach().clone()
images = [torch.randint(256, (3, 64, 64), dtype=torch.uint8)] * 2
losses = model.train_step(dict(inputs=images, data_samples=[sample] * 2), optimizer)
assert losses['loss'].isfinite() and (weight != before).any()
"""


UPERNET = "default_scope = 'mmseg'\nmodel = dict(type='EncoderDecoder', decode_head=dict(type='UPerHead'))\n"
MASK2FORMER = UPERNET.replace('UPerHead', 'Mask2FormerHead')
MMSEGMENTATIONS = MASK2FORMER + "custom_imports = dict(imports='mmdet.models', allow_failed_imports=False)\n"
CLASSIFIER = "default_scope = 'mmpretrain'\nmodel = dict(type='ImageClassifier')\n"
WITH_A_LOSS = UPERNET + "model['decode_head']['loss_decode'] = dict(type='mmdet.DiceLoss')\n"
RUN = """
for run in runs:
    sys.argv = run
    try:
        runpy.run_path(run[0], run_name='__main__')
    except SystemExit as stop:
        assert stop.code == 1
"""


@pytest.mark.parametrize(
    'blocked, works, missing',
    [
        (('mmdet', 'mmcv', 'mmseg'), 'MODELS.build(backbone)', {MASK2FORMER: ['mmsegmentation', 'mmdet']}),
        (
            ('mmdet',),
            A_SEGMENTOR_LEARNS + STEP + "assert 'mmdet' not in sys.modules",
            {MASK2FORMER: ['mmdet'], MMSEGMENTATIONS: ['mmdet'], WITH_A_LOSS: ['mmdet']},
        ),
        (
            ('mmseg', 'regex'),
            A_DETECTOR_LEARNS + STEP + "assert 'mmseg' not in sys.modules",
            {UPERNET: ['mmsegmentation', 'regex']},
        ),
        (
            ('ftfy',),
            "assert 'mmfocal.datasets.coco' in sys.modules and 'mmfocal.datasets.label_maps' not in sys.modules",
            {UPERNET: ['ftfy']},
        ),
        (
            ('mmpretrain', 'torchvision', 'timm'),
            A_DETECTOR_LEARNS + STEP + A_SEGMENTOR_LEARNS + STEP + "assert 'torchvision' not in sys.modules",
            {CLASSIFIER: ['mmpretrain', 'torchvision']},
        ),
    ],
    ids=['neither', 'no mmdet', 'no mmseg', 'no ftfy', 'no mmpretrain'],
)
def test_what_is_installed_works_and_what_is_not_is_named(blocked, works, missing, tmp_path):
    runs, expected = [], []
    for number, (config, packages) in enumerate(missing.items()):
        path = tmp_path / f'{number}.py'
        path.write_text(config)
        runs += [['tools/train.py', str(path)], ['tools/test.py', str(path), 'absent.pth']]
        what = f'package{"s" * (len(packages) > 1)} {", ".join(packages)}'
        wanted = "'mmfocal[classification]'" if 'mmpretrain' in packages else ' '.join(packages)
        expected += [f'error: {path}: {what} not installed; pip install {wanted}'] * 2
    code = BLOCK.format(blocked=blocked, runs=runs) + BACKBONE + works + RUN
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and 'Traceback' not in done.stderr, done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith('error')] == expected
