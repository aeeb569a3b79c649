"""Experiment trackers: MMEngine's backends, which a resumed training continues the same run with."""

import logging
import os
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import VISBACKENDS
from mmengine.visualization import MLflowVisBackend, WandbVisBackend
from mmengine.visualization.vis_backend import force_init_env

from mmfocal.errors import ConfigError
from mmfocal.files import write_atomically


class _SameRun:
    """Keeps a run's id in a file of the work directory.

    Args:
        work_dir: The training's work directory.
        run_name: The run's name.
        resume: Whether to continue the run whose id is in the file, if there is one.
    """

    id_file: str

    def _keep(self, work_dir: str, run_name: str, resume: bool) -> None:
        self.note, self.name = Path(work_dir, self.id_file), run_name
        self.earlier = self.note.read_text().strip() if resume and self.note.is_file() else None


@VISBACKENDS.register_module()
class ResumableWandbBackend(_SameRun, WandbVisBackend):
    """MMEngine's `WandbVisBackend`; arguments as `_SameRun`, others as MMEngine's."""

    id_file = 'wandb_run'

    def __init__(self, save_dir: str, work_dir: str, run_name: str, resume: bool = False, **kwargs: Any) -> None:
        self._keep(work_dir, run_name, resume)
        options = dict(name=run_name, dir=str(work_dir), resume='allow', project='mmfocal') | kwargs.pop(
            'init_kwargs', {}
        )
        super().__init__(save_dir, init_kwargs=options, **kwargs)

    def _init_env(self) -> None:
        if self.earlier:
            self._init_kwargs['id'] = self.earlier
        from wandb.errors import Error

        try:
            super()._init_env()
        except Error as error:
            raise ConfigError(f'--wandb: {error}; run wandb login, or set WANDB_MODE=offline') from error
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

    Runs go to `MLFLOW_TRACKING_URI` or, without it, to the SQLite file `mlflow.db` beside the work directory.
    """

    id_file = 'mlflow_run'

    def __init__(self, save_dir: str, work_dir: str, run_name: str, resume: bool = False, **kwargs: Any) -> None:
        self._keep(work_dir, run_name, resume)
        super().__init__(save_dir, **dict(exp_name='mmfocal') | kwargs)

    def _init_env(self) -> None:
        # MMEngine's would keep a store of files per run, which MLflow 3 refuses
        import mlflow

        for handler in MMLogger.get_current_instance().handlers:  # those that importing MLflow has closed
            if isinstance(handler, logging.FileHandler) and (handler.stream is None or handler.stream.closed):
                handler.stream = handler._open()
        self._mlflow = mlflow
        folder = self.note.absolute().parents[1]
        uri = self._tracking_uri or os.environ.get('MLFLOW_TRACKING_URI')
        mlflow.set_tracking_uri(uri or f'sqlite:///{folder}/mlflow.db')
        if mlflow.get_experiment_by_name(self._exp_name) is None:
            artifacts = self._artifact_location or (None if uri else (folder / 'mlartifacts').as_uri())
            mlflow.create_experiment(self._exp_name, artifact_location=artifacts)
        mlflow.set_experiment(self._exp_name)
        run = mlflow.start_run(run_id=self.earlier, run_name=None if self.earlier else self.name)
        write_atomically(self.note, run.info.run_id)

    @force_init_env
    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Records the settings; those of a resumed run stay, as MLflow asks."""
        self.cfg = config
        self._mlflow.log_text(config.pretty_text, 'config.py')
        known = self._mlflow.active_run().data.params
        params = {name: str(value)[:500] for name, value in self._flatten(config.to_dict()).items()}
        self._mlflow.log_params({name: value for name, value in params.items() if name not in known})
