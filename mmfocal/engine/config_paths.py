"""Where a config is found: by path, by name, or in a package (`mmdet::PATH`)."""

from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config

from mmfocal import CONFIGS
from mmfocal.errors import ConfigError, MissingFileError

_mmengine_cfg_path = Config._get_cfg_path


def find_config(name: str | Path) -> Path:
    """Returns the path of a config.

    Args:
        name: A path, the name of one of mmfocal's configs with or without `.py`, or `PACKAGE::PATH`, where PATH is
            relative to the package's configs.

    Raises:
        MissingFileError: If there is no such config.
        ConfigError: If the package is not installed, or has no configs.
    """
    path = Path(name)
    if path.is_file():
        return path
    package, separator, relative = str(name).partition('::')
    if separator:
        folder = _package_configs(package)
        where = f"among {package}'s configs"
    elif path.name == str(name):
        relative, folder, where = str(name), CONFIGS, "in this folder or among mmfocal's configs"
    else:
        raise MissingFileError(
            f"{name}: no such config; check the path, or name one of mmfocal's configs without a folder"
        )
    for candidate in (folder / relative, folder / f'{relative}.py'):
        if candidate.is_file():
            return candidate
    raise MissingFileError(f"{name}: no such config {where}; {CONFIGS} holds mmfocal's")


def _package_configs(package: str) -> Path:
    if package == 'mmfocal':
        return CONFIGS
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f'{package}::: the package {package} is not installed; install it or name a path')
    folder = Path(spec.submodule_search_locations[0], '.mim/configs')
    if not folder.is_dir():
        raise ConfigError(f'{package}::: the package {package} brings no configs; name a path')
    return folder


def register_config_prefix() -> None:
    """Makes MMEngine find bases as `find_config` does: `_base_ = 'mmfocal::NAME.py'`."""
    Config._get_cfg_path = staticmethod(_get_cfg_path)


def _get_cfg_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
    package, separator, _ = cfg_path.partition('::')
    if not separator:
        return _mmengine_cfg_path(cfg_path, filename)
    # MMEngine resolves the types of a foreign base in that package's registries; mmfocal has none of its own.
    return str(find_config(cfg_path)), None if package == 'mmfocal' else package
