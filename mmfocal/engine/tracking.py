"""Experiment trackers: MMEngine's backends, which a resumed training continues the same run with."""

import os
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import VISBACKENDS
from mmengine.visualization import MLflowVisBackend, WandbVisBackend
from mmengine.visualization.vis_backend import force_init_env

from mmfocal.files import write_atomically


class _SameRun:
    """Keeps a run's id in a file of the work directory.

    Args:
        work_dir: The training's work directory.
        name: The run's name.
        resume: Whether to continue the run whose id is in the file, if there is one.
    """

    id_file: str

    def _keep(self, work_dir: str, name: str, resume: bool) -> None:
        self.note, self.name = Path(work_dir, self.id_file), name
        self.earlier = self.note.read_text().strip() if resume and self.note.is_file() else None


@VISBACKENDS.register_module()
class ResumableWandbBackend(_SameRun, WandbVisBackend):
    """MMEngine's `WandbVisBackend`; arguments as `_SameRun`, others as MMEngine's."""

    id_file = 'wandb_run'

    def __init__(self, save_dir: str, work_dir: str, name: str, resume: bool = False, **kwargs: Any) -> None:
        self._keep(work_dir, name, resume)
        options = dict(name=name, dir=str(work_dir), resume='allow', project='mmfocal') | kwargs.pop('init_kwargs', {})
        super().__init__(save_dir, init_kwargs=options, **kwargs)

    def _init_env(self) -> None:
        if self.earlier:
            self._init_kwargs['id'] = self.earlier
        super()._init_env()
        write_atomically(self.note, self._wandb.run.id)

    @force_init_env
    def add_config(self, config: Config, **kwargs: Any) -> None:
        # MMEngine also uploads all Python files below the current folder, which may be anything
        self._wandb.config.update(config.to_dict(), allow_val_change=True)

    def close(self) -> None:
        if hasattr(self, '_wandb'):
            self._wandb.finish()


@VISBACKENDS.register_module()
class ResumableMLflowBackend(_SameRun, MLflowVisBackend):
    """MMEngine's `MLflowVisBackend`; arguments as `_SameRun`, others as MMEngine's.

    Runs go to `MLFLOW_TRACKING_URI` or, without it, to the folder `mlruns` beside the work directory.
    """

    id_file = 'mlflow_run'

    def __init__(self, save_dir: str, work_dir: str, name: str, resume: bool = False, **kwargs: Any) -> None:
        self._keep(work_dir, name, resume)
        uri = os.environ.get('MLFLOW_TRACKING_URI')
        store = save_dir if uri else str(Path(work_dir).absolute().parent / 'mlruns')
        super().__init__(store, **dict(exp_name='mmfocal', tracking_uri=uri) | kwargs)

    def _init_env(self) -> None:
        super()._init_env()
        run = self._mlflow.start_run(run_id=self.earlier, run_name=None if self.earlier else self.name)
        write_atomically(self.note, run.info.run_id)

    @force_init_env
    def add_config(self, config: Config, **kwargs: Any) -> None:
        self.cfg = config
        self._mlflow.log_text(config.pretty_text, 'config.py')
        known = self._mlflow.get_run(self._mlflow.active_run().info.run_id).data.params
        params = {name: str(value)[:500] for name, value in self._flatten(config.to_dict()).items()}
        self._mlflow.log_params({name: value for name, value in params.items() if name not in known})
