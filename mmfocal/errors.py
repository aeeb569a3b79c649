"""Errors that are the user's to mend: one sentence that says what is wrong, where, and what to do.

The command-line tools print such an error alone, without a traceback.
"""


class UserError(Exception):
    """Base of the errors below."""


class ConfigError(UserError, ValueError):
    """A config key has a value that cannot work."""


class DataError(UserError, ValueError):
    """An annotation file or an image is not what it should be."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that a config names is not there."""


class CheckpointError(UserError, RuntimeError):
    """A checkpoint cannot be read, or is of another model."""


class SavingError(UserError, OSError):
    """A checkpoint cannot be written."""


class DivergenceError(UserError, ArithmeticError):
    """A training's losses, gradients or weights are NaN or infinite."""


class OutOfMemoryError(UserError, MemoryError):
    """A batch does not fit into the memory."""


class MissingOperatorError(UserError, NotImplementedError):
    """An operator of MMCV is called that exists only compiled."""
