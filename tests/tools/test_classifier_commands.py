"""The commands with a classifier of the generated shapes: check-dataset, train, test, browse, data-stats."""

import json
import math
import os
import pickle
import re
import shutil
import sys
import zipfile
from pathlib import Path

import cv2
import mmcv
import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger

from mmfocal.cli import main
from mmfocal.cli.guards import add_guards
from mmfocal.datasets.shapes import make_shape_folders
from mmfocal.engine import read_config
from mmfocal.inference import Predictor
from mmfocal.weights import load_checkpoint

NAME = 'focal_nano_shapes'
CLASSES = ('circle', 'cross', 'square', 'triangle')
FAST = ['--cfg-options', 'train_cfg.max_epochs=1', 'env_cfg.mp_cfg.mp_start_method=fork']
FAST += [f'{split}_dataloader.num_workers=0' for split in ('train', 'val', 'test')]
FAST += [f'{split}_dataloader.persistent_workers=False' for split in ('train', 'val', 'test')]


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A folder with the shapes and the work directory of one epoch."""
    folder = tmp_path_factory.mktemp('classification')
    make_shape_folders(folder / 'data', num_train=32, num_val=12, size=64)
    before, argv = os.environ.get('SHAPES_CLASSIFICATION_ROOT'), sys.argv
    os.environ['SHAPES_CLASSIFICATION_ROOT'] = str(folder / 'data')
    try:
        sys.argv = ['mmfocal', 'train', NAME, '--work-dir', str(folder / 'work'), *FAST, 'randomness.seed=0']
        main()
    finally:
        sys.argv = argv
        os.environ.pop('SHAPES_CLASSIFICATION_ROOT')
        if before is not None:
            os.environ['SHAPES_CLASSIFICATION_ROOT'] = before
    return folder


@pytest.fixture
def run(trained, monkeypatch, capsys, tmp_path):
    """Runs a command; gives the exit code and what it printed."""
    monkeypatch.setenv('SHAPES_CLASSIFICATION_ROOT', str(trained / 'data'))
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        MMLogger._instance_dict.clear()  # another work directory
        monkeypatch.setattr(sys, 'argv', ['mmfocal', *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        assert 'Traceback' not in err
        return code, out + err

    return call


def copy_data(trained, monkeypatch, tmp_path):
    root = tmp_path / 'copy'
    shutil.copytree(trained / 'data', root)
    monkeypatch.setenv('SHAPES_CLASSIFICATION_ROOT', str(root))
    return root


def test_check_dataset(run, trained, monkeypatch, tmp_path):
    code, out = run('check-dataset', NAME, '--images', '--workers', 1)
    assert code == 0 and '0 errors' in out and '44 files of 2 data sets decoded' in out
    root = copy_data(trained, monkeypatch, tmp_path)
    image = next((root / 'train/cross').iterdir())
    image.write_bytes(image.read_bytes()[:200])
    next((root / 'val/square').iterdir()).write_bytes(b'')
    code, out = run('check-dataset', NAME, '--images', '--workers', 1, '--json', tmp_path / 'issues.json')
    assert (
        code == 1 and f'error: {image}: is truncated or damaged' in out and 'has no bytes; fetch it again [val]' in out
    )
    assert json.loads((tmp_path / 'issues.json').read_text())['counts']['error'] == {'damaged': 1, 'empty file': 1}
    code, out = run('check-dataset', NAME)
    assert code == 1 and '1 errors' in out and 'has no bytes' in out  # empty files are found without decoding


def test_wrong_numbers_of_classes(run, trained, monkeypatch, tmp_path):
    """Training and check-dataset say the same."""
    message = (
        'model.head.num_classes=7 (should be 4), model.data_preprocessor.num_classes=7 (should be 4): '
        'train_dataloader.dataset has 4 classes; set them in model'
    )
    wrong = ['model.head.num_classes=7', 'model.data_preprocessor.num_classes=7']
    code, out = run('check-dataset', NAME, '--split', 'train', '--cfg-options', *wrong)
    assert code == 1 and f'error: {message} [train]' in out
    code, out = run('train', NAME, '--work-dir', tmp_path, *FAST, *wrong)
    assert code == 1 and f'error: {message}\n' in out
    code, out = run('train', NAME, '--work-dir', tmp_path, *FAST, 'val_evaluator.topk=(1,5)')
    assert code == 1 and 'val_evaluator.topk=(1, 5): val_dataloader.dataset has 4 classes; write topk=(1,)' in out
    shutil.rmtree(copy_data(trained, monkeypatch, tmp_path) / 'train/cross')
    messages = [run('check-dataset', NAME)[1], run('train', NAME, '--work-dir', tmp_path, *FAST)[1]]
    assert all("train: no class folders 'cross'; add them, or correct metainfo.classes" in out for out in messages)


def test_test(run, trained, monkeypatch, tmp_path):
    """Testing equals the last validation, from folders and from a zip file, and predictions are those of predict."""
    log = (trained / 'work').glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in next(log).read_text().splitlines()]
    accuracy = next(line['accuracy/top1'] for line in lines if 'accuracy/top1' in line)
    checkpoint = trained / 'work/epoch_1.pth'
    pictures = tmp_path / 'pictures'
    code, out = run(
        'test', NAME, checkpoint, '--work-dir', tmp_path / 'a', '--out', 'all.pkl', '--show-dir', pictures, *FAST
    )
    assert code == 0 and f'accuracy/top1: {accuracy:.4f}' in out
    drawn = sorted(path.relative_to(pictures) for path in pictures.rglob('*.jpg'))
    images = sorted(path.relative_to(trained / 'data/val') for path in (trained / 'data/val').rglob('*.jpg'))
    assert drawn == images
    results = pickle.loads((tmp_path / 'all.pkl').read_bytes())
    predictor = Predictor(checkpoint)
    assert predictor.classes == CLASSES
    for result in results[::5]:
        found = predictor(result['img_path'])
        np.testing.assert_allclose(found.scores, np.sort(result['pred_score'])[::-1], atol=1e-5)
    root = copy_data(trained, monkeypatch, tmp_path)
    with zipfile.ZipFile(root / 'val.zip', 'w') as file:
        for name in images:
            file.write(root / 'val' / name, name.name)
    (root / 'val_map.txt').write_text(''.join(f'{name.name}\t{CLASSES.index(name.parent.name)}\n' for name in images))
    shutil.rmtree(root / 'val')
    pictures = tmp_path / 'zipped'
    code, out = run('test', NAME, checkpoint, '--work-dir', tmp_path / 'b', '--show-dir', pictures, *FAST)
    assert code == 0 and f'accuracy/top1: {accuracy:.4f}' in out
    assert sorted(path.name for path in pictures.iterdir()) == sorted(name.name for name in images)


def log_figures(work_dir):
    """The metrics of a test."""
    (file,) = work_dir.glob('*/*.json')
    return json.loads(file.read_text())


def test_report_and_classwise(run, trained, tmp_path):
    """Figures of the report and of each class are those of the log; the worst mistakes are shown."""
    out = tmp_path / 'report'
    arguments = ['--work-dir', tmp_path / 'w', '--report', out, '--classwise', '--out', tmp_path / 'all.pkl']
    code, printed = run('test', NAME, trained / 'work/epoch_1.pth', *arguments, *FAST)
    assert code == 0 and f'{out}/report.html' in printed and re.search(r'circle +3 +\d', printed)
    figures, report = log_figures(tmp_path / 'w'), json.loads((out / 'report.json').read_text())
    part = report['classification']
    assert part['overall'] == {'top1': pytest.approx(figures['accuracy/top1'] / 100)}
    assert [row['name'] for row in part['classes']] == list(CLASSES)
    for row in part['classes']:
        assert row['top1'] == pytest.approx(figures[f'accuracy/{row["name"]}_top1'] / 100) and row['images'] == 3
    results = pickle.loads((tmp_path / 'all.pkl').read_bytes())
    confusion = np.zeros((4, 4), int)
    losses = []
    for result in results:
        label, predicted = int(result['gt_label']), int(result['pred_label'])
        confusion[label, predicted] += 1
        if label != predicted:
            losses.append(-math.log(result['pred_score'][label]))
    assert part['confusion'] == confusion.tolist() and confusion.sum() == 12
    assert [one['loss'] for one in part['worst_images']] == pytest.approx(sorted(losses, reverse=True))
    page = (out / 'report.html').read_text()
    assert page.count('src="data:image/jpeg;base64,') == len(losses) > 0
    assert all(f'scope="row">{name}</th>' in page for name in CLASSES)


def test_format_only(run, trained, tmp_path):
    """The files are those of predict; images need neither labels nor class folders."""
    checkpoint, photos = trained / 'work/epoch_1.pth', tmp_path / 'photos'
    photos.mkdir()
    for path in sorted((trained / 'data/val').rglob('*.jpg')):
        shutil.copy(path, photos / f'{path.parent.name}_{path.name}')
    folder = f'test_dataloader.dataset.data_prefix={photos}'
    code, out = run('test', NAME, checkpoint, '--work-dir', 'w', '--format-only', *FAST, folder)
    assert code == 0 and 'w/submission/predictions.csv' in out
    code, _ = run('predict', checkpoint, photos, '--out', 'predicted', '--no-pictures', '--batch-size', 12)
    assert code == 0
    for name in ('predictions.json', 'predictions.csv'):
        one, other = (Path(parent, name).read_text() for parent in ('w/submission', 'predicted'))
        if name.endswith('json'):
            rounded = [
                [(e['image_id'], e['category_id'], round(e['score'], 3)) for e in json.loads(t)] for t in (one, other)
            ]
            assert rounded[0] == rounded[1] and len(rounded[0]) == 48
        else:
            assert one.splitlines()[1].startswith('circle_') and len(one.splitlines()) == len(other.splitlines()) == 13
    code, out = run('test', NAME, checkpoint, '--work-dir', 'w', '--format-only', *FAST)  # with class folders
    assert code == 0 and '\ncircle/' in Path('w/submission/predictions.csv').read_text()
    for path in photos.iterdir():
        path.unlink()
    code, out = run('test', NAME, checkpoint, '--work-dir', 'w', '--format-only', *FAST, folder)
    assert code == 1 and f'{photos}: no images; correct data_prefix' in out
    unlabelled = 'test_dataloader.dataset.with_label=False'
    code, out = run('test', NAME, checkpoint, '--work-dir', 'w', *FAST, unlabelled)
    assert code == 1 and f'{unlabelled}: accuracy needs labels; set it to True, or predict with --format-only' in out


def test_tta(run, trained, tmp_path):
    """Scores are the means of those of the image and of its mirror image; a released checkpoint is converted."""
    checkpoint = trained / 'work/epoch_1.pth'
    pictures = tmp_path / 'pictures'
    arguments = ['--work-dir', tmp_path / 'w', '--tta', '--out', tmp_path / 'all.pkl', '--show-dir', pictures]
    code, _ = run('test', NAME, checkpoint, *arguments, *FAST)
    assert code == 0 and len(list(pictures.rglob('*.jpg'))) == 12
    predictor = Predictor(checkpoint)
    for result in pickle.loads((tmp_path / 'all.pkl').read_bytes())[::4]:
        image = mmcv.imread(result['img_path'], channel_order='rgb')
        found = predictor([image, np.ascontiguousarray(image[:, ::-1])])
        expected = sum(one.scores[np.argsort(one.labels)] for one in found) / 2
        np.testing.assert_allclose(result['pred_score'], expected, atol=1e-5)
    weights = load_checkpoint(checkpoint)['state_dict']
    backbone = {name.removeprefix('backbone.'): value for name, value in weights.items() if 'backbone.' in name}
    torch.save(backbone, tmp_path / 'bare.pth')
    code, out = run('test', NAME, tmp_path / 'bare.pth', '--tta', '--work-dir', tmp_path / 'w', *FAST)
    assert code == 1 and 'bare.pth: it has no classification head' in out


@pytest.mark.parametrize('option, message', [
    (['--eval-backend', 'faster'], '--eval-backend needs a CheckedCocoMetric as evaluator'),
    (['--format-only', '--report', 'r'], '--format-only: --report needs annotations'),
    (['--out', 'folder'], '--out: folder must end in .pkl'),
])  # fmt: skip
def test_options_of_other_tasks(run, trained, option, message):
    code, out = run('test', NAME, trained / 'work/epoch_1.pth', '--work-dir', 'w', *option, *FAST)
    assert code == 1 and message in out


def test_browse_and_data_stats(run, tmp_path):
    code, out = run('browse', NAME, '--num', 4, '--out', tmp_path)
    assert code == 0 and '4 samples of 32' in out and cv2.imread(str(tmp_path / 'train_01.jpg')) is not None
    code, out = run('data-stats', NAME)
    assert code == 1 and 'the train data set has one label per image; mmfocal check-dataset lists classes' in out


def test_guards_of_configs_of_mmpretrain(capsys):
    cfg = read_config('mmpretrain::resnet/resnet18_8xb32_in1k.py')
    add_guards(cfg)
    assert [cfg[f'{split}_dataloader'].dataset.type for split in ('train', 'val', 'test')] == ['CheckedImageNet'] * 3
    assert cfg.default_hooks.checkpoint.type == 'SafeCheckpointHook'
    assert cfg.default_hooks.check_classes.type == 'CheckClassesHook'
    assert 'ImageNet -> CheckedImageNet' in capsys.readouterr().out
