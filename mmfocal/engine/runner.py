import os
import subprocess

import torch
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.model import BaseTTAModel, is_model_wrapper, revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, Runner, find_latest_checkpoint
from torch import distributed, nn
from torch.distributed.fsdp import FSDPModule

from mmfocal.engine.fsdp import shard_model, shard_optimizer
from mmfocal.errors import CheckpointError, ConfigError


@RUNNERS.register_module()
class FocalRunner(Runner):
    """MMEngine's runner, which also runs distributed jobs without a GPU, refuses to test or resume a checkpoint
    of another model, and on resuming does not load the pretrained weights that the checkpoint replaces.

    With `fsdp_units` in the config, names of the model's blocks' classes, a distributed training divides
    parameters, gradients and the optimizer's state among the processes (`shard_model`). Checkpoints are the
    same as without.
    """

    def setup_env(self, env_cfg: dict) -> None:
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

    def wrap_model(self, model_wrapper_cfg: dict, model: nn.Module) -> nn.Module:
        if self.distributed and not torch.cuda.is_available():
            if any('SyncBatchNorm' in type(module).__name__ for module in model.modules()):
                self.logger.info('No GPU: SyncBN layers run as BN, each process with the statistics of its own batch.')
                model = revert_sync_batchnorm(model)
            model_wrapper_cfg = dict(
                type='MMDistributedDataParallel',
                device_ids=None,
                broadcast_buffers=False,
                find_unused_parameters=self.cfg.get('find_unused_parameters', False)) | (model_wrapper_cfg or {})
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

    def save_checkpoint(self, *args, save_optimizer: bool = True, **kwargs) -> None:
        super().save_checkpoint(*args, save_optimizer=save_optimizer, **kwargs)  # in the first process alone,
        if isinstance(self.model, FSDPModule) and not is_main_process():  # which gathers the others' shards
            self.model.state_dict()
            if save_optimizer:
                self.optim_wrapper.state_dict()

    def load_checkpoint(self, filename: str, *args, **kwargs) -> dict:
        checkpoint = super().load_checkpoint(filename, *args, **kwargs)
        is_finetuning = isinstance(self._train_loop, BaseLoop) and not self._resume
        if not is_finetuning:  # MMEngine has only warned so far
            check_fits(self.model, checkpoint, filename)
        if self._resume and not {'meta', 'message_hub', 'optimizer'} <= checkpoint.keys():
            raise CheckpointError(f'{filename} holds weights alone, which cannot be resumed: to start from them, use '
                                  f'--cfg-options load_from={filename} in place of --resume')
        return checkpoint

    def _init_model_weights(self) -> None:
        resumes = self._resume and (self._load_from or find_latest_checkpoint(self.work_dir))
        is_sharded = isinstance(self.model, FSDPModule)  # which had its weights before
        if not resumes and not is_sharded:
            super()._init_model_weights()


def _check_slurm():
    absent = [name for name in ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST') if name not in os.environ]
    if absent:
        raise ConfigError(f'--launcher slurm needs {absent[0]}, which srun sets: start the job with '
                          'tools/slurm_train.sh or tools/slurm_test.sh')


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
            raise CheckpointError(f'{filename} is of another model than the config: {name} is {tuple(weights[name].shape)} in the '
                                  f'file and {tuple(value.shape)} in the model')
