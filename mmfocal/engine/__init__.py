from .bad_data import BadDataHook
from .command_line import load_config, one_sentence_errors, read_config
from .divergence import DivergenceHook
from .hooks import HostMemoryHook
from .loops import ResumableEpochLoop, ResumableIterLoop
from .out_of_memory import explain_out_of_memory
from .runner import FocalRunner
from .saving import SafeCheckpointHook

__all__ = [
    'BadDataHook', 'DivergenceHook', 'FocalRunner', 'HostMemoryHook', 'ResumableEpochLoop', 'ResumableIterLoop',
    'SafeCheckpointHook', 'explain_out_of_memory', 'load_config', 'one_sentence_errors', 'read_config']
