"""Images of other than three channels, from the file to the loss."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, init_default_scope

import mmfocal.registration  # noqa: F401
from mmfocal.errors import ConfigError
from mmfocal.models.data_preprocessors.detection import AnyChannelsDetDataPreprocessor
from mmfocal.models.data_preprocessors.segmentation import AnyChannelsSegDataPreProcessor

CONFIG = Path(__file__).parents[2] / 'configs/atss_focal_nano_shapes.py'
BOTH = AnyChannelsDetDataPreprocessor, AnyChannelsSegDataPreProcessor
MEAN, STD = [123.675, 116.28, 103.53, 100.0], [58.395, 57.12, 57.375, 50.0]


@pytest.fixture
def folder(tmp_path):
    """A data set of two PNGs with blue, green, red and infrared."""
    images = [dict(id=i, file_name=f'{i}.png', width=96, height=64) for i in (1, 2)]
    boxes = [dict(id=i, image_id=i, category_id=1, bbox=[10, 10, 30, 40], area=1200, iscrowd=0) for i in (1, 2)]
    content = dict(images=images, annotations=boxes, categories=[dict(id=1, name='circle')])
    (tmp_path / 'a.json').write_text(json.dumps(content))
    for i in (1, 2):
        pixels = np.random.default_rng(i).integers(0, 255, (64, 96, 4), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f'{i}.png'), pixels)
    return tmp_path


def build_data_set(folder, color_type):
    init_default_scope('mmdet')
    load = dict(type='LoadImageFromFile', color_type=color_type)
    pipeline = [load, dict(type='LoadAnnotations', with_bbox=True), dict(type='PackDetInputs')]
    settings = dict(data_root=str(folder), data_prefix=dict(img=''), ann_file='a.json', pipeline=pipeline)
    return DATASETS.build(dict(type='CheckedCocoDataset', metainfo=dict(classes=('circle',)), **settings))


@pytest.mark.parametrize('color_type, channels', [('unchanged', 4), ('grayscale', 1)])
def test_a_training_step(folder, color_type, channels):
    cfg = Config.fromfile(CONFIG).model
    cfg.backbone.in_channels, cfg.bbox_head.num_classes = channels, 1
    preprocessor = dict(type='AnyChannelsDetDataPreprocessor', mean=MEAN[:channels], std=STD[:channels])
    cfg.data_preprocessor.update(preprocessor, bgr_to_rgb=channels > 1)
    batch = pseudo_collate([build_data_set(folder, color_type)[i] for i in (0, 1)])
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    model.init_weights()
    model.train()
    inputs = model.data_preprocessor(batch, True)
    if channels == 4:
        bgri = torch.from_numpy(cv2.imread(str(folder / '1.png'), cv2.IMREAD_UNCHANGED)).permute(2, 0, 1).float()
        expected = (bgri[[2, 1, 0, 3]] - torch.tensor(MEAN).view(4, 1, 1)) / torch.tensor(STD).view(4, 1, 1)
        torch.testing.assert_close(inputs['inputs'][0], expected)
    assert inputs['inputs'].shape == (2, channels, 64, 96)
    loss, _ = model.parse_losses(model(**inputs, mode='loss'))
    loss.backward()
    gradients = model.backbone.patch_embed.proj.weight.grad
    assert loss.isfinite() and (gradients.abs().amax((0, 2, 3)) > 0).all()


def test_check_dataset_knows_what_loading_keeps(folder):
    def kinds(color_type):
        issues, checks = build_data_set(folder, color_type).find_issues()
        return [issue.kind for issue in issues + [one for check in checks for one in check()]]

    assert kinds('color') == ['not RGB'] * 2 and kinds('unchanged') == []


@pytest.mark.parametrize('kind', BOTH)
def test_three_channels_as_in_the_class_below(kind):
    options = dict(mean=MEAN[:3], std=STD[:3], bgr_to_rgb=True)
    image = torch.randint(256, (3, 32, 32), dtype=torch.uint8)
    ours, theirs = (one(**options)(dict(inputs=[image], data_samples=None)) for one in (kind, kind.__mro__[2]))
    assert torch.equal(ours['inputs'], theirs['inputs'])


@pytest.mark.parametrize('kind', BOTH)
def test_more_channels_and_no_swap(kind):
    image = torch.randint(256, (6, 32, 32), dtype=torch.uint8)
    for swap, order in ((False, [0, 1, 2, 3, 4, 5]), (True, [2, 1, 0, 3, 4, 5])):
        made = kind(mean=[2.0], std=[4.0], rgb_to_bgr=swap)(dict(inputs=[image], data_samples=None))['inputs']
        assert torch.equal(made[0], (image[order].float() - 2) / 4)
    made = kind()(dict(inputs=[image], data_samples=None))['inputs']
    assert torch.equal(made[0], image.float())


@pytest.mark.parametrize('kind', BOTH)
@pytest.mark.parametrize(
    'options, channels, message',
    [
        (dict(mean=MEAN, std=STD), 3, 'mean has 4 values and the images 3 channels'),
        (dict(mean=MEAN, std=STD), 1, 'mean has 4 values and the images 1 channels'),
        (dict(mean=MEAN, std=STD[:3]), 4, 'differ in length'),
        (dict(mean=MEAN), 4, 'std=None differ in length'),
        (dict(bgr_to_rgb=True), 1, 'the images have 1 channels; set bgr_to_rgb=False'),
        (dict(bgr_to_rgb=True, rgb_to_bgr=True), 3, 'are both set; remove one'),
    ],
)
def test_what_does_not_fit(kind, options, channels, message):
    with pytest.raises(ConfigError, match=f'^data_preprocessor: .*{message}'):
        kind(**options)(dict(inputs=[torch.zeros(channels, 32, 32)], data_samples=None))
