"""The page of that name: a classifier, killed and resumed, gives its backbone to a detector."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from mmfocal.datasets.shapes import make_shape_folders
from mmfocal.engine import read_config
from mmfocal.weights import load_checkpoint

ROOT = Path(__file__).parents[2]
PAGE = ROOT / 'docs/train/from_images_to_detections.md'
LAST = 'work_dirs/{}/epoch_4.pth'
OPTIONS = ['randomness.seed=0', 'train_cfg.max_epochs=4', 'default_hooks.logger.interval=1']
OPTIONS += ['train_dataloader.batch_size=16']  # four iterations an epoch
OPTIONS += [f'{split}_dataloader.persistent_workers=False' for split in ('train', 'val')]
OPTIONS += [f'{split}_dataloader.num_workers=0' for split in ('train', 'val')]
# random numbers that the recipe draws and the config of the shapes does not
AUGMENTS = [dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]
MIXUP = f'\nmodel.update(train_cfg=dict(_delete_=True, augments={AUGMENTS}))\n'


def configs_of_the_page() -> list[str]:
    """Returns the page's configs that start from one of mmfocal's for the shapes."""
    blocks = PAGE.read_text().split('```python\n')[1:]
    return [block.partition('```')[0] for block in blocks if '_shapes.py' in block]


@pytest.mark.slow
def test_the_whole_way(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_shape_folders(tmp_path / 'data/shapes_classification', num_train=64, num_val=8, size=64)
    classifier, detector = configs_of_the_page()
    Path('shapes_classifier.py').write_text(classifier + MIXUP)
    Path('shapes_detector.py').write_text(detector)
    environment = os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1')

    def train(name, *options):
        command = [sys.executable, '-m', 'mmfocal', 'train', 'shapes_classifier.py', '--work-dir', f'work_dirs/{name}']
        with open(f'{name}.log', 'a') as log:
            return subprocess.Popen(
                [*command, *options, '--cfg-options', *OPTIONS], env=environment, stderr=log, stdout=log
            )

    killed = train('killed')
    while 'Epoch(train) [2][2/4]' not in Path('killed.log').read_text():  # after a checkpoint, within an epoch
        assert killed.poll() is None, Path('killed.log').read_text()[-2000:]
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not Path(LAST.format('killed')).exists()
    for process in (train('killed', '--resume'), train('whole')):
        assert process.wait() == 0
    assert 'resumed epoch: 1' in Path('killed.log').read_text()
    found, expected = (load_checkpoint(LAST.format(name))['state_dict'] for name in ('killed', 'whole'))
    torch.testing.assert_close(dict(found), dict(expected), rtol=0, atol=0)

    (best,) = Path('work_dirs/killed').glob('best_accuracy_top1_epoch_*.pth')
    subprocess.run(
        [sys.executable, '-m', 'mmfocal', 'convert', 'released', str(best), 'backbone.safetensors'],
        env=environment, check=True,
    )  # fmt: skip
    weights = load_checkpoint(best)['state_dict']
    for path in (best, 'backbone.safetensors'):
        monkeypatch.setenv('SHAPES_BACKBONE', str(path))
        cfg = read_config('shapes_detector.py')
        init_default_scope('mmdet')
        model = MODELS.build(cfg.model)
        model.init_weights()
        loaded = {f'backbone.{name}': value for name, value in model.backbone.state_dict().items()}
        of_the_backbone = {name for name in weights if name.startswith('backbone.')}
        assert loaded.keys() - of_the_backbone == {
            f'backbone.norm{i}.{name}' for i in range(3) for name in ('weight', 'bias')
        }
        assert of_the_backbone <= loaded.keys()
        for name in of_the_backbone:
            assert torch.equal(loaded[name], weights[name]), name
