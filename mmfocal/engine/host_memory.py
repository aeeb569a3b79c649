from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmfocal.memory import peak_resident_memory


@HOOKS.register_module()
class HostMemoryHook(Hook):
    """Logs the peak resident memory of the process in MB as `memory`, where there is no GPU."""

    priority = 'NORMAL'

    def before_train_iter(self, runner, batch_idx: int, data_batch: Any = None) -> None:
        peak = None if torch.cuda.is_available() else peak_resident_memory()
        if peak is not None:
            runner.message_hub.update_scalar('train/memory', peak // 2**20)
