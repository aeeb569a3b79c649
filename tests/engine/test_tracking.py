"""Weights & Biases and MLflow without their servers."""

import os

import pytest
from mmengine.config import Config

from mmfocal.engine import ResumableMLflowBackend, ResumableWandbBackend
from mmfocal.errors import ConfigError

CONFIG = Config(dict(model=dict(type='Net', width=8), hooks=[dict(type='Hook', interval=1)], lr=0.1))


def log(backend, step, loss, work_dir, **settings):
    CONFIG.work_dir = str(work_dir)
    CONFIG.lr = settings.get('lr', 0.1)
    backend.add_config(CONFIG)
    backend.add_scalars(dict(loss=loss, epoch=1), step=step)
    backend.close()


@pytest.mark.slow
def test_wandb_continues_its_run(tmp_path, monkeypatch):
    monkeypatch.setenv('WANDB_MODE', 'offline')
    work_dir = tmp_path / 'site'
    ids = []
    for resume in (False, True, False):
        log(ResumableWandbBackend(str(work_dir / 'vis'), str(work_dir), 'site', resume), 1, 0.5, work_dir)
        ids.append((work_dir / 'wandb_run').read_text())
    assert ids[0] == ids[1] != ids[2]
    runs = [name for name in os.listdir(work_dir / 'wandb') if name.startswith('offline-run')]
    assert len(runs) == 3 and sum(ids[0] in name for name in runs) == 2


def test_wandb_that_cannot_start(tmp_path, monkeypatch):
    import wandb

    def fail(**options):
        raise wandb.errors.UsageError('No API key configured')

    monkeypatch.setattr(wandb, 'init', fail)
    with pytest.raises(ConfigError, match='--wandb: No API key configured; run wandb login, or set WANDB_MODE=offline'):
        ResumableWandbBackend(str(tmp_path / 'vis'), str(tmp_path), 'site').add_scalars(dict(loss=1.0))


@pytest.mark.slow
def test_mlflow_continues_its_run(tmp_path, monkeypatch):
    import mlflow

    monkeypatch.delenv('MLFLOW_TRACKING_URI', raising=False)
    work_dir = tmp_path / 'work_dirs/site'
    ids = []
    for step, resume in ((1, False), (2, True), (1, False)):
        # a setting that has changed is no error
        log(ResumableMLflowBackend(str(work_dir), str(work_dir), 'site', resume), step, 1 / step, work_dir, lr=step)
        ids.append((work_dir / 'mlflow_run').read_text())
    assert ids[0] == ids[1] != ids[2] and (tmp_path / 'work_dirs/mlflow.db').is_file()
    client = mlflow.MlflowClient(f'sqlite:///{tmp_path}/work_dirs/mlflow.db')
    run = client.get_run(ids[0])
    assert run.info.status == 'FINISHED' and run.info.run_name == 'site'
    assert run.data.params['model.width'] == '8' and run.data.params['lr'] == '1'
    history = client.get_metric_history(ids[0], 'loss')
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (2, 0.5)]
    assert [file.path for file in client.list_artifacts(ids[0])] == ['config.py']
