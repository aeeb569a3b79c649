from .command_line import load_config, one_sentence_errors, read_config
from .hooks import HostMemoryHook
from .runner import FocalRunner

__all__ = ['FocalRunner', 'HostMemoryHook', 'load_config', 'one_sentence_errors', 'read_config']
