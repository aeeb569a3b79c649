from mmfocal.engine.bad_data import BadDataHook
from mmfocal.engine.command_line import load_config, one_sentence_errors, read_config
from mmfocal.engine.divergence import DivergenceHook
from mmfocal.engine.hooks import HostMemoryHook
from mmfocal.engine.loops import ResumableEpochLoop, ResumableIterLoop
from mmfocal.engine.out_of_memory import explain_out_of_memory
from mmfocal.engine.runner import FocalRunner
from mmfocal.engine.saving import SafeCheckpointHook

__all__ = [
    'BadDataHook',
    'DivergenceHook',
    'FocalRunner',
    'HostMemoryHook',
    'ResumableEpochLoop',
    'ResumableIterLoop',
    'SafeCheckpointHook',
    'explain_out_of_memory',
    'load_config',
    'one_sentence_errors',
    'read_config',
]
