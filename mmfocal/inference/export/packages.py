"""Optional packages."""

import importlib
from types import ModuleType

from mmfocal.errors import ConfigError


def import_package(name: str, extra: str) -> ModuleType:
    """Imports an optional package.

    Args:
        name: Of the package, by which it is installed and imported.
        extra: Of mmfocal that has it.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(f'the package {name} is not installed; pip install "mmfocal[{extra}]"') from error
