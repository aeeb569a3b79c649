import runpy
import sys
from pathlib import Path

import cv2
import pytest
from mmengine.registry import RUNNERS

from mmfocal.cli import demo

ROOT = Path(__file__).parents[2]


def test_demo_runs_to_its_end(tmp_path, monkeypatch, capsys):
    """The demo with 8 training and 12 validation images: it says its AP and draws a sheet that is not blank."""
    monkeypatch.setattr(demo, 'NUM_TRAIN', 8)
    monkeypatch.setattr(demo, 'NUM_VAL', 12)
    monkeypatch.delenv('SHAPES_ROOT', raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['demo.py', '--seed', '1'])
    runpy.run_path(str(ROOT / 'tools/demo.py'), run_name='__main__')
    said = capsys.readouterr().out
    assert 'box AP 0.' in said and 'on 12 held-out images (seed 1)' in said
    assert '-m mmfocal test atss_focal_nano_shapes work_dirs/demo/epoch_3.pth' in said
    sheet = cv2.imread(str(tmp_path / 'work_dirs/demo/pictures/contact_sheet.jpg'))
    assert sheet.shape[1] > 6 * 128 * 3 and sheet.std() > 20
    assert cv2.imread(str(tmp_path / 'work_dirs/demo/unseen.jpg')).std() > 20
    assert len(list((tmp_path / 'work_dirs/demo/pictures').glob('*.png'))) == 12


@pytest.mark.parametrize('option, kind', [([], 'Xavier'), (['--pretrained'], 'Pretrained')])
def test_demo_starts_from_scratch_unless_asked(tmp_path, monkeypatch, option, kind):
    class Built(Exception):
        pass

    def build(cfg):
        assert cfg.model.backbone.init_cfg.type == kind
        raise Built

    monkeypatch.setattr(demo, 'NUM_TRAIN', 1)
    monkeypatch.setattr(demo, 'NUM_VAL', 1)
    monkeypatch.setenv('SHAPES_ROOT', str(tmp_path / 'shapes'))
    monkeypatch.setattr(RUNNERS, 'build', build)
    monkeypatch.setattr(sys, 'argv', ['demo.py', *option])
    with pytest.raises(Built):
        runpy.run_path(str(ROOT / 'tools/demo.py'), run_name='__main__')
