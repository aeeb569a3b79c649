import torch
from mmengine.model import BaseTTAModel, is_model_wrapper, revert_sync_batchnorm
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, Runner, find_latest_checkpoint
from torch import distributed, nn

from mmfocal.errors import CheckpointError


@RUNNERS.register_module()
class FocalRunner(Runner):
    """MMEngine's runner, which also runs distributed jobs without a GPU, refuses to test or resume a checkpoint of another model,
    and on resuming does not load the pretrained weights that the checkpoint replaces."""

    def setup_env(self, env_cfg: dict) -> None:
        if self._launcher == 'pytorch' and not torch.cuda.is_available() and not distributed.is_initialized():
            distributed.init_process_group('gloo')  # MMEngine's own way in selects a GPU first
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
        return super().wrap_model(model_wrapper_cfg, model)

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
        if not (self._resume and (self._load_from or find_latest_checkpoint(self.work_dir))):
            super()._init_model_weights()


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
