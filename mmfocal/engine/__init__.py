from mmfocal.engine.bad_data import BadDataHook
from mmfocal.engine.checkpoint_hook import SafeCheckpointHook
from mmfocal.engine.checkpointer import Checkpointer, find_latest_valid_checkpoint
from mmfocal.engine.classifier_checkpoint import ClassifierCheckpointHook
from mmfocal.engine.command_line import load_config, read_config
from mmfocal.engine.compatibility import check_compatible
from mmfocal.engine.divergence import DivergenceHook
from mmfocal.engine.early_stopping import ResumableEarlyStoppingHook
from mmfocal.engine.error_messages import one_sentence_errors
from mmfocal.engine.host_memory import HostMemoryHook
from mmfocal.engine.loops import ResumableEpochLoop, ResumableIterLoop
from mmfocal.engine.metric_checks import CheckMetricsHook
from mmfocal.engine.out_of_memory import explain_out_of_memory
from mmfocal.engine.runner import FocalRunner
from mmfocal.engine.schedules import WarmupCosineLR
from mmfocal.engine.tracking import ResumableMLflowBackend, ResumableWandbBackend
from mmfocal.engine.validation_loss import ValLossLoop

__all__ = [
    'BadDataHook',
    'CheckMetricsHook',
    'Checkpointer',
    'ClassifierCheckpointHook',
    'DivergenceHook',
    'FocalRunner',
    'HostMemoryHook',
    'ResumableEarlyStoppingHook',
    'ResumableEpochLoop',
    'ResumableIterLoop',
    'ResumableMLflowBackend',
    'ResumableWandbBackend',
    'SafeCheckpointHook',
    'ValLossLoop',
    'WarmupCosineLR',
    'check_compatible',
    'explain_out_of_memory',
    'find_latest_valid_checkpoint',
    'load_config',
    'one_sentence_errors',
    'read_config',
]
