import logging
import os
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, Runner
from mmengine.visualization import Visualizer
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import DataLoader

from mmfocal.engine.batch_size import SHARE, choose_batch_size
from mmfocal.engine.checkpointer import Checkpointer
from mmfocal.engine.compatibility import check_compatible, describe_load
from mmfocal.engine.fsdp import shard_model, shard_optimizer
from mmfocal.engine.launchers import set_up_process_group
from mmfocal.engine.resumed_settings import ResumedSettings
from mmfocal.engine.workers import WorkerInit
from mmfocal.errors import CheckpointError
from mmfocal.models.wrappers import unwrap
from mmfocal.ops import mmcv_ops
from mmfocal.ops.torchvision_import import MISMATCH, prepare_torchvision
from mmfocal.weights import register_safe_loaders
from mmfocal.weights.classifier import is_focal_classifier

RESUMABLE_LOOPS = dict(EpochBasedTrainLoop='ResumableEpochLoop', IterBasedTrainLoop='ResumableIterLoop')


@RUNNERS.register_module()
class FocalRunner(Runner):
    """MMEngine's runner with exact resuming, atomic checkpoints and distributed jobs without a GPU.

    - Training loops are resumable (`ResumableEpochLoop`, `ResumableIterLoop`), also under the names of MMEngine's.
    - A `Checkpointer` saves, and finds the latest valid checkpoint for `resume=True`.
    - A checkpoint of another model is an error when testing and resuming, and one that loads nothing when fine-tuning.
    - Settings that differ from those of the checkpoint to resume from take effect, or are refused.
    - When resuming, pretrained weights, which the checkpoint replaces, are not loaded.
    - `env_cfg=dict(cpu_threads=N)` is the number of PyTorch's threads on a machine without a GPU; OMP_NUM_THREADS takes
      precedence.
    - With `fsdp_units` in the config, class names of the model's blocks, a distributed training shards parameters,
      gradients and the optimizer's state among the processes (`shard_model`). Checkpoints are the same as without.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.checkpointer = Checkpointer(self)
        super().__init__(*args, **kwargs)

    def setup_env(self, env_cfg: dict) -> None:
        register_safe_loaders()  # before anything of this runner reads a checkpoint
        set_up_process_group(self._launcher)
        super().setup_env(env_cfg)
        threads = env_cfg.get('cpu_threads')
        if threads and 'OMP_NUM_THREADS' not in os.environ and not torch.cuda.is_available():
            torch.set_num_threads(threads)

    def _log_env(self, env_cfg: dict) -> None:
        mismatch = prepare_torchvision()  # MMEngine imports it to log its version
        super()._log_env(env_cfg)
        if mismatch:
            self.logger.info(f'{MISMATCH}: its transforms and models work, its compiled operators do not')
        if operators := mmcv_ops.describe():
            self.logger.info(operators)

    def register_default_hooks(self, hooks: dict | None = None) -> None:
        """As MMEngine's; None switches a hook off by its name, also one that MMEngine does not know."""
        own = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')
        hooks = {name: hook for name, hook in (hooks or {}).items() if hook is not None or name in own}
        if is_focal_classifier(unwrap(self.model)):
            hooks.setdefault('classifier_checkpoint', dict(type='ClassifierCheckpointHook'))
        super().register_default_hooks(hooks)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        if self.distributed and not torch.cuda.is_available():
            if any('SyncBatchNorm' in type(module).__name__ for module in model.modules()):
                self.logger.info('No GPU: SyncBN layers run as BN, each process with the statistics of its own batch.')
                model = revert_sync_batchnorm(model)
            model_wrapper_cfg = dict(
                type='MMDistributedDataParallel',
                device_ids=None,
                broadcast_buffers=False,
                find_unused_parameters=self.cfg.get('find_unused_parameters', False),
            ) | (model_wrapper_cfg or {})
        if self.distributed and self.cfg.get('fsdp_units'):
            return model.to(get_device())  # `train` shards it; testing shares no gradients
        return super().wrap_model(model_wrapper_cfg, model)

    def train(self) -> nn.Module:
        if isinstance(self._train_dataloader, dict) and self._train_dataloader.get('batch_size') == 'auto':
            checkpoint = (self._load_from or self.checkpointer.latest()) if self._resume else None
            number = choose_batch_size(self, checkpoint)
            reason = f'as in {checkpoint}' if checkpoint else f'which fill at most {SHARE:.0%} of the free GPU memory'
            self._train_dataloader['batch_size'] = self.cfg.train_dataloader.batch_size = number
            self.logger.info(f'batch_size=auto: {number} images per process, {reason}')
        if self.distributed and self.cfg.get('fsdp_units'):
            self._init_model_weights()
            shard_model(self.model, self.cfg.fsdp_units)
        return super().train()

    def build_optim_wrapper(self, optim_wrapper: OptimWrapper | dict) -> OptimWrapper:
        built = super().build_optim_wrapper(optim_wrapper)
        if built is not optim_wrapper and isinstance(self.model, FSDPModule):
            shard_optimizer(built)
        return built

    def scale_lr(self, optim_wrapper: OptimWrapper, auto_scale_lr: dict | None = None) -> None:
        """As MMEngine's, with accumulated batches counted in the batch size."""
        accumulated = getattr(optim_wrapper, '_accumulative_counts', 1)
        if accumulated > 1 and (auto_scale_lr or {}).get('enable'):
            base = auto_scale_lr['base_batch_size'] / accumulated
            self.logger.info(f'{accumulated} batches are accumulated: base_batch_size is divided by {accumulated}.')
            auto_scale_lr = dict(auto_scale_lr, base_batch_size=base)
        super().scale_lr(optim_wrapper, auto_scale_lr)

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """As MMEngine's; its workers survive a SIGTERM to the job and exit when they cannot send (`WorkerInit`)."""
        built = Runner.build_dataloader(dataloader, seed, diff_rank_seed)
        if not isinstance(built.worker_init_fn, WorkerInit):
            built.worker_init_fn = WorkerInit(built.worker_init_fn)
        return built

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """As MMEngine's, with the resumable loops in place of its own."""
        if isinstance(loop, dict):
            loop = dict(loop)
            if 'by_epoch' in loop and 'type' not in loop:
                loop['type'] = 'EpochBasedTrainLoop' if loop.pop('by_epoch') else 'IterBasedTrainLoop'
            name = getattr(loop.get('type'), '__name__', loop.get('type'))  # a config may have the class
            if name in RESUMABLE_LOOPS:
                loop['type'] = RESUMABLE_LOOPS[name]
        return super().build_train_loop(loop)

    def build_visualizer(self, visualizer: Visualizer | dict | None = None) -> Visualizer:
        """As MMEngine's; a full disk does not stop training when scalars are logged."""
        visualizer = super().build_visualizer(visualizer)
        for backend in visualizer._vis_backends.values():
            backend.add_scalars = _log_disk_errors(backend.add_scalars)
        return visualizer

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: dict | None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: dict | None = None,
        by_epoch: bool = True,
        backend_args: dict | None = None,
    ) -> None:
        """As MMEngine's; see `Checkpointer.write`.

        Raises:
            SavingError: In all processes, if the first cannot write it.
        """
        finished = dict(epoch=self.epoch + bool(by_epoch), iter=self.iter + (not by_epoch))
        self.checkpointer.write(
            super().save_checkpoint,
            out_dir,
            filename,
            finished | (meta or {}),
            file_client_args=file_client_args,
            save_optimizer=save_optimizer,
            save_param_scheduler=save_param_scheduler,
            by_epoch=by_epoch,
            backend_args=backend_args,
        )

    def load_or_resume(self) -> None:
        if self._has_loaded or not self._resume or self._load_from:
            return super().load_or_resume()
        latest = self.checkpointer.latest()
        if latest:
            self.resume(latest)
        else:
            self.logger.info(f'{self.work_dir}: no checkpoint to resume from, training starts from scratch.')

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """As MMEngine's; settings that differ from the checkpoint's take effect or are refused (`ResumedSettings`).

        Raises:
            CheckpointError: If the file has only weights, or those of another model or optimizer.
            ConfigError: If a schedule that follows metrics differs.
        """
        is_ours = hasattr(self.train_loop, 'start_at') and isinstance(self.optim_wrapper, OptimWrapper)
        settings = ResumedSettings(self) if is_ours else None
        try:
            super().resume(filename, *args, **kwargs)
        except ValueError as error:  # PyTorch's
            if 'parameter group' not in str(error):
                raise
            raise CheckpointError(
                f'{filename}: the optimizer has other parameter groups than in the config; restore optim_wrapper and '
                'the frozen stages of model, or start from its weights with load_from'
            ) from error
        if settings:
            iteration = self.train_loop.iter
            self.checkpointer.restore_progress(self._loaded.get('meta', {}))
            settings.apply(self._loaded, filename, iteration)
        self._loaded = {}

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> dict:
        """As MMEngine's; logs which tensors are new when fine-tuning, otherwise all weights have to be there.

        Raises:
            CheckpointError: If a weight is missing when testing or resuming, if fine-tuning would load none, or if the
                file to resume from has only weights.
        """
        missing: list[str] = []
        model = unwrap(self.model)
        hook = model.register_load_state_dict_post_hook(lambda _, keys: missing.extend(keys.missing_keys))
        try:
            checkpoint = super().load_checkpoint(filename, *args, **kwargs)
        finally:
            hook.remove()
        is_finetuning = isinstance(self._train_loop, BaseLoop) and not self._resume
        if is_finetuning:
            self.logger.info(describe_load(model, checkpoint, filename, missing))
        else:  # MMEngine has only warned so far
            check_compatible(model, checkpoint, filename)
        if self._resume and not {'meta', 'message_hub', 'optimizer'} <= checkpoint.keys():
            raise CheckpointError(
                f'{filename}: only weights, which training cannot resume from; to start from them, use '
                f'--cfg-options load_from={filename} in place of --resume'
            )
        self._loaded = {name: checkpoint[name] for name in ('meta', 'param_schedulers') if name in checkpoint}
        return checkpoint

    def _init_model_weights(self) -> None:
        resumes = self._resume and (self._load_from or self.checkpointer.latest())
        is_sharded = isinstance(self.model, FSDPModule)  # which had its weights before
        if not resumes and not is_sharded:
            super()._init_model_weights()


def _log_disk_errors(method: Callable) -> Callable:
    logged = False

    @wraps(method)
    def logging_errors(*args: Any, **kwargs: Any) -> None:
        nonlocal logged
        try:
            method(*args, **kwargs)
            logged = False
        except OSError as error:
            if not logged:  # once, not in each iteration
                print_log(f'Scalars are not logged until this is resolved: {error}', 'current', logging.ERROR)
            logged = True

    return logging_errors
