import resource

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class HostMemoryHook(Hook):
    """Logs the process' peak resident memory in MB as `memory` where there is no GPU, whose memory MMEngine logs by itself."""

    priority = 'NORMAL'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if not torch.cuda.is_available():
            kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            runner.message_hub.update_scalar('train/memory', kilobytes // 1024)
