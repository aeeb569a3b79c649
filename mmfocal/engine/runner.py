import logging
import os
import os.path as osp
import subprocess
from functools import cached_property

import torch
from mmengine.device import get_device
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.fileio import join_path
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper, revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, Runner
from mmengine.visualization import Visualizer
from torch import distributed, nn
from torch.distributed.fsdp import FSDPModule

from mmfocal.engine.fsdp import shard_model, shard_optimizer
from mmfocal.engine.saving import RESUME_FILE, WholeFilesBackend, newest_whole_checkpoint
from mmfocal.errors import CheckpointError, ConfigError, SavingError
from mmfocal.ops import mmcv_ops
from mmfocal.weights import register_safe_loaders

RESUMABLE_LOOPS = dict(EpochBasedTrainLoop='ResumableEpochLoop', IterBasedTrainLoop='ResumableIterLoop')


@RUNNERS.register_module()
class FocalRunner(Runner):
    """MMEngine's runner, which also runs distributed jobs without a GPU, refuses to test or resume a checkpoint
    of another model, and on resuming does not load the pretrained weights that the checkpoint replaces.

    It saves whole checkpoints (`WholeFilesBackend`), resumes from the newest one that is not damaged, and goes on
    as if nothing had happened (`ResumableEpochLoop`, `ResumableIterLoop`).

    With `fsdp_units` in the config, names of the model's blocks' classes, a distributed training divides
    parameters, gradients and the optimizer's state among the processes (`shard_model`). Checkpoints are the
    same as without.
    """

    def setup_env(self, env_cfg: dict) -> None:
        register_safe_loaders()  # before anything of this runner reads a checkpoint
        if self._launcher == 'slurm':
            _check_slurm()
            # MMEngine's own port is the same for all jobs of a node; those in one allocation are steps of one job.
            job, step = (int(os.environ.get(f'SLURM_{name}_ID', 0)) for name in ('JOB', 'STEP'))
            os.environ.setdefault('MASTER_PORT', str(20000 + (job + 101 * step) % 10000))
        # MMEngine's own way in selects a GPU first.
        if not torch.cuda.is_available() and not distributed.is_initialized():
            if self._launcher == 'slurm':
                _set_slurm_environment()
            if self._launcher in ('pytorch', 'slurm'):
                distributed.init_process_group('gloo')
        super().setup_env(env_cfg)

    def _log_env(self, env_cfg: dict) -> None:
        super()._log_env(env_cfg)
        if operators := mmcv_ops.describe():
            self.logger.info(operators)

    def wrap_model(self, model_wrapper_cfg: dict, model: nn.Module) -> nn.Module:
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
            return model.to(get_device())  # `train` shards it; testing needs no gradients to be shared
        return super().wrap_model(model_wrapper_cfg, model)

    def train(self) -> nn.Module:
        if self.distributed and self.cfg.get('fsdp_units'):
            self._init_model_weights()
            shard_model(self.model, self.cfg.fsdp_units)
        return super().train()

    def build_optim_wrapper(self, optim_wrapper: dict) -> OptimWrapper:
        built = super().build_optim_wrapper(optim_wrapper)
        if built is not optim_wrapper and isinstance(self.model, FSDPModule):
            shard_optimizer(built)
        return built

    def scale_lr(self, optim_wrapper: OptimWrapper, auto_scale_lr: dict = None) -> None:
        """As MMEngine's, which leaves gradient accumulation out of the batch size."""
        accumulated = getattr(optim_wrapper, '_accumulative_counts', 1)
        if accumulated > 1 and (auto_scale_lr or {}).get('enable'):
            base = auto_scale_lr['base_batch_size'] / accumulated
            self.logger.info(f'{accumulated} batches are accumulated: base_batch_size / {accumulated} is taken.')
            auto_scale_lr = dict(auto_scale_lr, base_batch_size=base)
        super().scale_lr(optim_wrapper, auto_scale_lr)

    saved_iter: int | None = None  # iterations in the last checkpoint that this run has saved to be resumed
    unsaved: str | None = None  # why the one after it could not be saved

    def build_train_loop(self, loop: dict) -> BaseLoop:
        """As MMEngine's, with the loops that resume exactly in place of its own."""
        if isinstance(loop, dict):
            loop = dict(loop)
            if 'by_epoch' in loop and 'type' not in loop:
                loop['type'] = 'EpochBasedTrainLoop' if loop.pop('by_epoch') else 'IterBasedTrainLoop'
            name = getattr(loop.get('type'), '__name__', loop.get('type'))  # a config may have the class
            if name in RESUMABLE_LOOPS:
                loop['type'] = RESUMABLE_LOOPS[name]
        return super().build_train_loop(loop)

    def build_visualizer(self, visualizer: dict = None) -> Visualizer:
        """As MMEngine's, whose log of scalars would end a training when the disk is full."""
        visualizer = super().build_visualizer(visualizer)
        for backend in visualizer._vis_backends.values():
            backend.add_scalars = _reports_disk_errors(backend.add_scalars)
        return visualizer

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: dict = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: dict = None,
        by_epoch: bool = True,
        backend_args: dict = None,
    ) -> None:
        """As MMEngine's; a local file is whole or not there.

        Raises:
            SavingError: In all processes, if the first cannot write it.
        """
        meta = dict(meta or {})
        meta.setdefault('epoch', self.epoch + bool(by_epoch))
        meta.setdefault('iter', self.iter + (not by_epoch))
        if hasattr(self.train_loop, 'progress'):
            meta.update(self.train_loop.progress(meta['epoch'], meta['iter']))
        if file_client_args is None and backend_args is None and '://' not in str(out_dir):
            backend_args = dict(backend='whole_files')
        failure = [None]
        try:
            super().save_checkpoint(
                out_dir, filename, file_client_args, save_optimizer, save_param_scheduler, meta, by_epoch, backend_args
            )
        except SavingError as error:
            failure = [str(error)]
        if isinstance(self.model, FSDPModule) and not is_main_process():  # the first gathers the others' shards
            self.model.state_dict()
            if save_optimizer:
                self.optim_wrapper.state_dict()
        broadcast_object_list(failure)
        if failure[0]:
            raise SavingError(failure[0])
        if save_optimizer:
            self.saved_iter = meta['iter']

    def try_to_save(self, out_dir: str, filename: str, *args, **kwargs) -> bool:
        """Saves a checkpoint to resume from and names it in `last_checkpoint`, or logs why it cannot.

        Args:
            out_dir (str): As all arguments, of `save_checkpoint`.

        Returns:
            bool: Whether it is saved.
        """
        try:
            self.save_checkpoint(out_dir, filename, *args, **kwargs)
        except SavingError as error:
            self.unsaved = str(error)
            self.logger.error(f'{error}; training goes on and saves again at the next interval')
            return False
        self.unsaved = None
        self.write_note('last_checkpoint', join_path(out_dir, filename))
        return True

    def save_to_resume(self, iteration: int) -> None:
        """Saves to `resume.pth` what is needed to go on in the midst of an epoch, or logs why it cannot.

        Args:
            iteration (int): Finished iterations.
        """
        hook = self._checkpoint_hook
        where = dict(file_client_args=hook.file_client_args, backend_args=hook.backend_args) if hook else {}
        out_dir = hook.out_dir if hook else self.work_dir
        self.try_to_save(out_dir, RESUME_FILE, meta=dict(epoch=self.epoch, iter=iteration), **where)

    def write_note(self, name: str, text: str) -> None:
        """Writes a small file in the work directory, by the first process, or logs why it cannot."""
        if self.rank == 0:
            try:
                WholeFilesBackend().put_text(text, osp.join(self.work_dir, name))
            except SavingError as error:
                self.logger.error(str(error))

    def saves_checkpoints(self) -> bool:
        """Whether there is a `CheckpointHook`."""
        return self._checkpoint_hook is not None

    def can_be_resumed_here(self) -> bool:
        """Whether a checkpoint holds all: the processes of a distributed training accumulate gradients each for itself."""
        return not self.distributed or self.optim_wrapper.should_update()

    @property
    def _checkpoint_hook(self) -> CheckpointHook | None:
        return next((hook for hook in self.hooks if isinstance(hook, CheckpointHook)), None)

    @cached_property
    def _newest_checkpoint(self) -> str | None:
        found = [newest_whole_checkpoint(self.work_dir) if self.rank == 0 else None]
        broadcast_object_list(found)
        return found[0]

    def load_or_resume(self) -> None:
        if self._has_loaded or not self._resume or self._load_from:
            return super().load_or_resume()
        if self._newest_checkpoint:
            self.resume(self._newest_checkpoint)
        else:
            self.logger.info(f'{self.work_dir} has no checkpoint to resume from: training starts at the beginning.')

    def resume(self, filename: str, *args, **kwargs) -> None:
        super().resume(filename, *args, **kwargs)
        if hasattr(self.train_loop, 'go_on_from'):
            self.train_loop.go_on_from(self._loaded_meta)

    def load_checkpoint(self, filename: str, *args, **kwargs) -> dict:
        checkpoint = super().load_checkpoint(filename, *args, **kwargs)
        is_finetuning = isinstance(self._train_loop, BaseLoop) and not self._resume
        if not is_finetuning:  # MMEngine has only warned so far
            check_fits(self.model, checkpoint, filename)
        if self._resume and not {'meta', 'message_hub', 'optimizer'} <= checkpoint.keys():
            raise CheckpointError(
                f'{filename} holds weights alone, which cannot be resumed: to start from them, use '
                f'--cfg-options load_from={filename} in place of --resume'
            )
        self._loaded_meta = checkpoint.get('meta', {})
        return checkpoint

    def _init_model_weights(self) -> None:
        resumes = self._resume and (self._load_from or self._newest_checkpoint)
        is_sharded = isinstance(self.model, FSDPModule)  # which had its weights before
        if not resumes and not is_sharded:
            super()._init_model_weights()


def _reports_disk_errors(method):
    reported = False

    def reporting(*args, **kwargs):
        nonlocal reported
        try:
            method(*args, **kwargs)
            reported = False
        except OSError as error:
            if not reported:  # else in each iteration
                print_log(f'Scalars are not logged as long as: {error}', 'current', logging.ERROR)
            reported = True

    return reporting


def _check_slurm():
    absent = [name for name in ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST') if name not in os.environ]
    if absent:
        raise ConfigError(
            f'--launcher slurm needs {absent[0]}, which srun sets: start the job with '
            'tools/slurm_train.sh or tools/slurm_test.sh'
        )


def _set_slurm_environment():
    """What PyTorch reads, from what srun sets."""
    variables = os.environ
    variables['RANK'] = variables['SLURM_PROCID']
    variables['WORLD_SIZE'] = variables['SLURM_NTASKS']
    variables['LOCAL_RANK'] = variables.get('SLURM_LOCALID', '0')
    if 'MASTER_ADDR' not in variables:
        command = ['scontrol', 'show', 'hostnames', variables['SLURM_NODELIST']]
        nodes = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        variables['MASTER_ADDR'] = nodes[0]


def check_fits(model: nn.Module, checkpoint: dict, filename: str) -> None:
    """Checks that a checkpoint has all of a model's weights.

    Args:
        model (nn.Module): The model, wrapped or not.
        checkpoint (dict): The checkpoint, or the state dict itself.
        filename (str): Its name, for the message.

    Raises:
        CheckpointError: If it lacks a weight, or has it in another shape; the sentence names the first.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    weights = checkpoint.get('state_dict', checkpoint)
    weights = {name.removeprefix('module.'): value for name, value in weights.items()}
    for name, value in model.state_dict().items():
        if name not in weights:
            raise CheckpointError(f'{filename} is of another model than the config: it lacks {name}')
        if weights[name].shape != value.shape:
            raise CheckpointError(
                f'{filename} is of another model than the config: {name} is {tuple(weights[name].shape)} in the '
                f'file and {tuple(value.shape)} in the model'
            )
