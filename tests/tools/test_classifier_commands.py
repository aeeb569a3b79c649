"""The commands with a classifier of the generated shapes: check-dataset, train, test, browse, data-stats."""

import json
import os
import pickle
import shutil
import sys
import zipfile

import cv2
import numpy as np
import pytest
from mmengine.logging import MMLogger

from mmfocal.cli import main
from mmfocal.cli.guards import add_guards
from mmfocal.datasets.shapes import make_shape_folders
from mmfocal.engine import read_config
from mmfocal.inference import Predictor

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


@pytest.mark.parametrize('option, message', [
    (['--report', 'r'], '--report needs a test_evaluator of the type'),
    (['--format-only'], '--format-only needs a test_evaluator of COCO or of label maps'),
    (['--tta'], '--tta needs tta_model and tta_pipeline'),
    (['--classwise'], '--classwise needs a'),
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
