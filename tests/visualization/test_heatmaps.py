"""tools/visualize.py heatmaps: what is drawn is what the head predicts and what the annotations say."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.apis import inference_detector
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import mmfocal.registration  # noqa: F401
from mmfocal.visualization import heatmaps

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs/reppointsv2_focal_nano_shapes.py'


@pytest.fixture(scope='module')
def model(shapes, tmp_path_factory):
    """The nano detector with random weights that detect a lot, and its checkpoint."""
    init_default_scope('mmdet')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('SHAPES_ROOT', str(shapes))
        cfg = Config.fromfile(CONFIG)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    for name, weight in model.bbox_head.named_parameters():
        if name.startswith('reppoints_') and weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.3)
    checkpoint = tmp_path_factory.mktemp('model') / 'random.pth'
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    model.cfg = cfg
    return model.eval(), checkpoint


@pytest.fixture
def run(shapes, model, tmp_path, monkeypatch, capsys):
    """Runs the tool in this process; returns its exit code, its output, its error output, and the figure."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('SHAPES_ROOT', str(shapes))
    figures, draw = [], heatmaps.draw
    monkeypatch.setattr(heatmaps, 'draw', lambda *args: figures.append(draw(*args)) or figures[-1])

    def run(image, *args, config=CONFIG, checkpoint=model[1]):
        monkeypatch.setattr(sys, 'argv', ['visualize.py', 'heatmaps', *map(str, (config, checkpoint, image, *args))])
        figures.clear()
        capsys.readouterr()
        code = 0
        try:
            runpy.run_path(str(ROOT / 'tools/visualize.py'), run_name='__main__')
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        return code, said.out, said.err, figures[0] if figures else None

    return run


def panel(figure, start):
    """The one axis whose title starts so."""
    (axis,) = (axis for axis in figure.axes if axis.get_title().startswith(start))
    return axis


def heat(figure, start):
    """The map that a panel shows over the image."""
    return np.asarray(panel(figure, start).images[1].get_array())


def boxes(axis, style='solid'):
    """The boxes in a panel, (n, 4), xyxy."""
    patches = [patch for patch in axis.patches if patch.get_linestyle() == style]
    return np.array(
        [
            (patch.get_x(), patch.get_y(), patch.get_x() + patch.get_width(), patch.get_y() + patch.get_height())
            for patch in patches
        ]
    )


def annotations(folder, name, change=None):
    """Returns a validation image's boxes (xyxy) and class names from the file, after `change` has changed them."""
    path = folder / 'annotations/instances_val2017.json'
    coco = json.loads(path.read_text())
    (image,) = (image['id'] for image in coco['images'] if image['file_name'] == name)
    found = [annotation for annotation in coco['annotations'] if annotation['image_id'] == image]
    if change:
        change(found)
        path.write_text(json.dumps(coco))
    names = {category['id']: category['name'] for category in coco['categories']}
    xyxy = np.array([annotation['bbox'] for annotation in found], float)
    xyxy[:, 2:] += xyxy[:, :2]
    return xyxy, [names[annotation['category_id']] for annotation in found]


@pytest.mark.parametrize('scale', [1.0, 1.5])
def test_targets_are_the_annotations(scale, run, shapes, tmp_path, monkeypatch):
    """Also at another size than the annotations', and with a crowd, which is no target."""
    folder = tmp_path / 'data'
    shutil.copytree(shapes, folder)
    monkeypatch.setenv('SHAPES_ROOT', str(folder))
    image = next(path for path in sorted((folder / 'val2017').iterdir()) if len(annotations(folder, path.name)[0]) > 2)
    gt, names = annotations(folder, image.name, lambda found: found[0].update(iscrowd=1))
    gt, side = gt * scale, round(64 * scale)
    code, out, error, figure = run(image, '--cfg-options', f'test_dataloader.dataset.pipeline.1.scale_factor={scale}')
    assert code == 0, error
    annotation_file = f'{folder}/annotations/instances_val2017.json'
    last = out.splitlines()[-1]
    assert last == f'work_dirs/heatmaps/{image.stem}.png: predictions and targets (from {annotation_file})'
    assert cv2.imread(f'work_dirs/heatmaps/{image.stem}.png').std() > 20
    assert f'{image} at {side} × {side} pixels' in figure.get_suptitle()

    axis = panel(figure, f'annotated: {len(gt) - 1} boxes, 1 ignored')
    assert boxes(axis) == pytest.approx(gt[1:]) and boxes(axis, '--') == pytest.approx(gt[:1])
    assert [text.get_text() for text in axis.texts[::-1]] == names[1:]
    for level, stride in enumerate((8, 16)):
        cells = side // stride
        for column, corner in enumerate(('top-left', 'bottom-right')):
            corners = gt[1:, 2 * column : 2 * column + 2]
            nearest = np.ceil(corners / stride - 0.5).clip(0, cells - 1)  # of two equally near ones the first
            axis = panel(figure, f'annotated: {corner} corners, level {level}, stride {stride}\n')
            drawn = np.asarray(axis.images[1].get_array())
            assert drawn.shape == (cells, cells)
            assert set(zip(*np.nonzero(drawn.T == 1))) == set(map(tuple, nearest.astype(int)))
            assert set(map(tuple, axis.lines[0].get_xydata())) == set(map(tuple, nearest * stride))  # the rings
            end = (cells - 0.5) * stride
            assert axis.images[1].get_extent() == [-stride / 2, end, end, -stride / 2]  # a cell's point is its middle
    foreground = np.zeros((side // 8, side // 8))
    for left, top, right, bottom in (gt[1:] // 8).astype(int):
        foreground[top : bottom + 1, left : right + 1] = 1
    title = 'annotated: foreground, level 0, stride 8\n'
    assert (
        np.array_equal(heat(figure, title), foreground) and f'{min(names[1:])} 1.00' in panel(figure, title).get_title()
    )


def test_predictions_are_the_heads(run, model, shapes):
    image = next((shapes / 'train2017').iterdir())
    found = inference_detector(
        model[0], str(image)
    ).pred_instances  # in the image's own pixels, which here are the input's
    assert len(found) > 3
    expected = found[found.scores > found.scores.mean()]
    code, out, error, figure = run(image, '--score-thr', found.scores.mean().item(), '--levels', 2, 0)
    assert code == 0 and f'targets (from {shapes}/annotations/instances_train2017.json)' in out, error
    pixels = cv2.imread(str(image))
    inputs = model[0].data_preprocessor(dict(inputs=[torch.from_numpy(pixels).permute(2, 0, 1)]))['inputs']
    with torch.no_grad():
        *_, corners, _, foreground = model[0].bbox_head(model[0].extract_feat(inputs))
    for level, stride in ((0, 8), (2, 32)):
        for column, corner in enumerate(('top-left', 'bottom-right')):
            drawn = heat(figure, f'predicted: {corner} corners, level {level}, stride {stride}\n')
            assert drawn == pytest.approx(corners[level][0, column].sigmoid().numpy(), rel=1e-4)
        drawn = heat(figure, f'predicted: foreground, level {level}, stride {stride}\n')
        assert drawn == pytest.approx(foreground[level][0].sigmoid().amax(0).numpy(), rel=1e-4)
    assert not any('level 1' in axis.get_title() for axis in figure.axes)

    axis = panel(figure, f'predicted: {len(expected)} boxes')
    assert boxes(axis) == pytest.approx(expected.bboxes.numpy(), abs=1e-2)
    classes = model[0].cfg.metainfo.classes
    assert [text.get_text() for text in axis.texts[::-1]] == [
        f'{classes[i]} {score:.2f}' for i, score in zip(expected.labels, expected.scores)
    ]
    assert np.array_equal(axis.images[0].get_array(), pixels[..., ::-1])


def test_an_image_of_no_data_set(run, shapes, tmp_path, monkeypatch):
    """Any size will do; a data set that is not there does not stop the picture, but is named."""
    image = tmp_path / 'wide.jpg'
    cv2.imwrite(str(image), np.full((40, 260, 3), 90, np.uint8))
    code, out, error, figure = run(image, '--out', tmp_path / 'new/wide.jpg', '--levels', 0)
    assert code == 0, error
    assert (
        out.splitlines()[-1]
        == f"{tmp_path}/new/wide.jpg: predictions only; {image} is in none of the config's data sets"
    )
    assert len(figure.axes) == 5 and all(axis.get_title().startswith('predicted: ') for axis in figure.axes[:4])
    height, width = cv2.imread(str(tmp_path / 'new/wide.jpg')).shape[:2]
    assert 2 * height < width < 4000

    folder = tmp_path / 'data'
    shutil.copytree(shapes, folder)
    (folder / 'annotations/instances_train2017.json').unlink()
    monkeypatch.setenv('SHAPES_ROOT', str(folder))
    code, out, error, _ = run(image, '--levels', 0)
    assert code == 0, error
    assert (
        'predictions only' in out
        and f'train_dataloader was not searched: SHAPES_ROOT={folder}: ' in out
        and 'test_dataloader' not in out
    )


def test_data_sets_in_wrappers_and_links(run, shapes, tmp_path):
    """An image is known by its real path, and its annotations by a data set within others."""
    config = tmp_path / 'wrapped.py'
    config.write_text(f"""_base_ = '{CONFIG}'
data_set = {{{{_base_.train_dataloader.dataset}}}}
both = dict(type='ConcatDataset', datasets=[{{{{_base_.val_dataloader.dataset}}}}, data_set])
train_dataloader = dict(dataset=dict(_delete_=True, type='RepeatDataset', times=2, dataset=both))
""")
    link = tmp_path / 'link.jpg'
    link.symlink_to(sorted((shapes / 'train2017').iterdir())[-1])
    code, out, error, figure = run(link, '--levels', 0, config=config)
    assert code == 0, error
    assert (
        out.splitlines()[-1].startswith('work_dirs/heatmaps/link.png: predictions and targets')
        and 'train2017.json' in out
    )
    assert any('annotated: foreground' in axis.get_title() for axis in figure.axes)


@pytest.mark.parametrize(
    'arguments, sentence',
    [
        (['absent.jpg'], 'absent.jpg: no such image'),
        (['text.jpg'], 'text.jpg: OpenCV cannot decode the image'),
        (dict(config=ROOT / 'configs/atss_focal_nano_shapes.py'), 'model.bbox_head is not a RepPointsV2Head'),
        (dict(config='absent.py'), 'absent.py: no such config'),
        (dict(checkpoint='absent.pth'), 'absent.pth: there is no such checkpoint file'),
        (dict(checkpoint='text.jpg'), 'text.jpg: truncated or not a checkpoint'),
        (dict(checkpoint='other.pth'), 'other.pth: does not fit the model, backbone'),
        (['white.png', '--levels', '0', '3'], 'has levels 0 to 2, got 0 3'),
        (['white.png', '--levels', '-1'], 'has levels 0 to 2, got -1'),
        (['white.png', '--out', 'text.jpg/new/a.png'], '--out: text.jpg/new/a.png cannot be written ('),
        (['white.png', '--out', 'folder.png'], '--out: folder.png cannot be written (Is a directory)'),
        (['white.png', '--out', 'a.txt'], '--out: matplotlib cannot write a.txt'),
        (['white.png', '--device', 'abacus'], '--device: PyTorch cannot use abacus here'),
        (
            ['white.png', '--cfg-options', "test_dataloader.dataset.metainfo.classes=('circle',)"],
            'the head has num_classes=4 and the data set 1',
        ),
        (
            ['white.png', '--cfg-options', 'model.train_cfg=None'],
            'test_dataloader or model.train_cfg is missing',
        ),
    ],
)
def test_mistakes_get_one_sentence(arguments, sentence, run, tmp_path):
    (tmp_path / 'text.jpg').write_text('not an image')
    (tmp_path / 'folder.png').mkdir()
    cv2.imwrite('white.png', np.full((32, 32, 3), 255, np.uint8))
    torch.save(dict(state_dict={'backbone.conv1.weight': torch.zeros(3)}), 'other.pth')
    code, _, error, _ = run('white.png', **arguments) if isinstance(arguments, dict) else run(*arguments)
    assert code == 1 and error.splitlines()[-1].startswith('error: ') and sentence in error and 'Traceback' not in error
