"""Configs by path, by name and as `PACKAGE::PATH`, also as bases of a user's config."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from mmfocal import CONFIGS
from mmfocal.engine import read_config
from mmfocal.engine.config_paths import find_config, register_config_prefix
from mmfocal.errors import ConfigError, MissingFileError

ROOT = Path(__file__).parents[2]
NAME = 'atss_focal_tiny_3x'


@pytest.mark.parametrize('name', [NAME, f'{NAME}.py', f'mmfocal::{NAME}', f'mmfocal::{NAME}.py'])
def test_our_configs_by_name_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == CONFIGS / f'{NAME}.py'
    assert read_config(name).to_dict() == Config.fromfile(ROOT / f'configs/{NAME}.py').to_dict()


def test_a_file_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(f'{NAME}.py').touch()
    assert find_config(f'{NAME}.py') == Path(f'{NAME}.py')


@pytest.mark.parametrize(
    'name', ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', 'mmdet::retinanet/retinanet_r50_fpn_1x_coco']
)
def test_configs_of_mmdetection(name):
    assert read_config(name).model.type == 'RetinaNet'


def test_configs_of_mmsegmentation():
    assert read_config('mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024').default_scope == 'mmseg'


@pytest.mark.parametrize(
    'name, error, message',
    [
        ('atss_focal_tinny_3x', MissingFileError, "no such config in this folder or among mmfocal's configs"),
        ('some/where.py', MissingFileError, 'no such config; check the path'),
        ('mmfocal::none.py', MissingFileError, "no such config among mmfocal's configs"),
        ('mmdet::retinanet/none.py', MissingFileError, "no such config among mmdet's configs"),
        ('mmdot::a.py', ConfigError, 'the package mmdot is not installed'),
        ('json::a.py', ConfigError, 'the package json brings no configs'),
    ],
)
def test_mistakes(name, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        find_config(name)


def test_bases_of_a_users_config(tmp_path):
    user = tmp_path / 'mine.py'
    user.write_text(f"_base_ = 'mmfocal::{NAME}.py'\nmodel = dict(bbox_head=dict(num_classes=7))\n")
    ours, mine = Config.fromfile(CONFIGS / f'{NAME}.py').to_dict(), read_config(user).to_dict()
    ours['model']['bbox_head']['num_classes'] = 7
    assert mine == ours  # no scopes are added
    register_config_prefix()  # twice is once
    user.write_text("_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py', '_base_.yaml']\n")
    (tmp_path / '_base_.yaml').write_text('x: 1\n')
    cfg = read_config(user)
    assert cfg.model.type == 'RetinaNet' and cfg.x == 1
    assert cfg.model._scope_ == 'mmdet'
    user.write_text("_base_ = 'mmfocal::none.py'\n")
    with pytest.raises(MissingFileError, match=r'mmfocal::none\.py: no such config'):
        read_config(user)


def test_a_base_in_a_process_that_imports_only_the_registration(tmp_path):
    (tmp_path / 'mine.py').write_text(f"_base_ = 'mmfocal::{NAME}.py'\n")
    code = "import mmfocal.registration; from mmengine import Config; print(Config.fromfile('mine.py').model.type)"
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.endswith('ATSS\n'), done.stderr  # OneDL's forks print on import
