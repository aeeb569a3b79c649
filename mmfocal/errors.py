"""Errors that users can fix themselves; messages read `where: what is wrong; what to do`.

The command-line tools print the message alone, without a traceback.
"""


class UserError(Exception):
    """Base of the errors below."""


class ConfigError(UserError, ValueError):
    """A setting cannot work."""


class MissingPackageError(ConfigError):
    """A config needs a package that is not installed."""


class DataError(UserError, ValueError):
    """An annotation file or an image is invalid."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder does not exist."""


class CheckpointError(UserError, RuntimeError):
    """A checkpoint cannot be read, or belongs to another model."""


class SavingError(UserError, OSError):
    """A checkpoint cannot be written."""


class DivergenceError(UserError, ArithmeticError):
    """Losses, gradients or weights are NaN or infinite."""


class OutOfMemoryError(UserError, MemoryError):
    """A batch does not fit into memory."""


class MissingOperatorError(UserError, NotImplementedError):
    """An operator of MMCV is called that exists only compiled."""
