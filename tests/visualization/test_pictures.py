"""Each image has a picture of its own, in its folder, with any number of classes and names in any script."""

from types import SimpleNamespace

import cv2
import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import font_manager
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData, PixelData
from mmseg.datasets import BaseSegDataset
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer

from mmfocal.datasets.iou_metric import CheckedIoUMetric
from mmfocal.datasets.palettes import make_palette
from mmfocal.visualization.fonts import use_font_for
from mmfocal.visualization.pictures import PicturesHook, find_image_root, relative_name

NAMES = ['batch_1/000.png', 'batch_2/000.png', 'batch_2/deep/000.png', '001.gif']


@pytest.fixture
def images(tmp_path):
    for name in NAMES:
        (tmp_path / 'images' / name).parent.mkdir(parents=True, exist_ok=True)
        ok, content = cv2.imencode('.png', np.full((20, 24, 3), 90, np.uint8))
        (tmp_path / 'images' / name).write_bytes(content.tobytes())
    return tmp_path / 'images'


def draw(images, tmp_path, visualizer, make_sample, **data_prefix):
    hook = PicturesHook(draw=True, test_out_dir=str(tmp_path / 'pictures'))
    dataset = SimpleNamespace(data_prefix=data_prefix)
    runner = SimpleNamespace(
        visualizer=visualizer,
        test_dataloader=SimpleNamespace(dataset=SimpleNamespace(datasets=[dataset])),
        test_evaluator=SimpleNamespace(metrics=[]),
    )
    hook.before_test(runner)
    samples = []
    for name in NAMES:
        sample = make_sample()
        sample.set_metainfo(dict(img_path=str(images / name), ori_shape=(20, 24), img_shape=(20, 24)))
        samples.append(sample)
    hook.after_test_iter(runner, 0, None, samples)
    return sorted(str(path.relative_to(tmp_path / 'pictures')) for path in (tmp_path / 'pictures').rglob('*.*'))


def test_detections_keep_folders_and_have_120_classes(images, tmp_path):
    init_default_scope('mmdet')
    visualizer = DetLocalVisualizer()
    visualizer.dataset_meta = dict(classes=tuple(f'class {i}' for i in range(120)), palette=make_palette(120))

    def make_sample():
        instances = InstanceData(
            bboxes=torch.tensor([[2.0, 2, 12, 12]]), scores=torch.ones(1), labels=torch.tensor([119])
        )
        return DetDataSample(pred_instances=instances)

    found = draw(images, tmp_path, visualizer, make_sample, img=str(images))
    assert found == ['001.gif.png', 'batch_1/000.png', 'batch_2/000.png', 'batch_2/deep/000.png']
    assert cv2.imread(str(tmp_path / 'pictures/001.gif.png')).shape[0] == 20


def test_segmentations_keep_folders(images, tmp_path):
    init_default_scope('mmseg')
    visualizer = SegLocalVisualizer()
    visualizer.dataset_meta = BaseSegDataset(metainfo=dict(classes=('a', 'b')), lazy_init=True).metainfo
    found = draw(
        images,
        tmp_path,
        visualizer,
        lambda: SegDataSample(pred_sem_seg=PixelData(data=torch.zeros(1, 20, 24, dtype=int))),
        img_path=str(images),
    )
    assert found == ['001.gif.png', 'batch_1/000.png', 'batch_2/000.png', 'batch_2/deep/000.png']


def test_label_maps_keep_folders(images, tmp_path):
    metric = CheckedIoUMetric(output_dir=str(tmp_path / 'maps'), format_only=True)
    metric.dataset_meta, metric.image_root = dict(classes=('a', 'b')), str(images)
    labels = torch.zeros(1, 20, 24, dtype=int)
    metric.process(None, [dict(img_path=str(images / name), pred_sem_seg=dict(data=labels)) for name in NAMES])
    found = sorted(str(path.relative_to(tmp_path / 'maps')) for path in (tmp_path / 'maps').rglob('*.png'))
    assert found == ['001.png', 'batch_1/000.png', 'batch_2/000.png', 'batch_2/deep/000.png']
    assert metric.output_dir == str(tmp_path / 'maps')


def test_roots():
    datasets = [SimpleNamespace(data_prefix=dict(img=f'/data/{name}/images')) for name in 'ab']
    assert find_image_root(datasets) == '/data' and find_image_root(datasets[:1]) == '/data/a/images'
    assert relative_name('/data/a/images/x/1.jpg', '/data/a/images') == 'x/1.jpg'
    assert relative_name('/elsewhere/1.jpg', '/data') == '1.jpg'


def test_palettes():
    colours = make_palette(300)
    assert len(colours) == 300 and len(set(colours)) > 250
    assert make_palette(3, [(1, 2, 3)])[0] == (1, 2, 3)


def test_fonts(monkeypatch):
    assert use_font_for(['van', 'seat 2']) is None, 'the default font has them'
    warnings = []
    monkeypatch.setattr('mmfocal.visualization.fonts.print_log', lambda text, *args: warnings.append(text))
    monkeypatch.setattr('mmfocal.visualization.fonts._letters_of', lambda path: set(map(ord, 'abc')))
    use_font_for(['a\U0001f69c'])
    assert 'pictures show boxes for letters such as \U0001f69c' in warnings[0]
    first = font_manager.fontManager.ttflist[0]
    monkeypatch.setattr(
        'mmfocal.visualization.fonts._letters_of', lambda path: set(map(ord, 'abc车' if path == first.fname else 'abc'))
    )
    before = matplotlib.rcParams['font.sans-serif']
    monkeypatch.setitem(matplotlib.rcParams, 'font.sans-serif', before)
    assert use_font_for(['车']) == first.name and len(warnings) == 1
    assert matplotlib.rcParams['font.sans-serif'][0] == first.name
