"""Makes MMPretrain importable beside a transformers that its multimodal models cannot work with."""

import sys
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from mmengine.utils import digit_version

TOO_NEW = '4.50'  # the first release without what MMPretrain 1.2 imports of it


def prepare_mmpretrain() -> bool:
    """Imports MMPretrain, without its multimodal models if transformers is too new; to be called before other imports.

    MMPretrain 1.2 imports these models wherever it finds transformers, and stops at names that 4.50 and later no longer
    have. Without transformers it leaves them out; so it is told that there is none. Nothing is done for a transformers
    that fits, none at all, or an MMPretrain that is imported already.

    Returns:
        Whether the multimodal models were left out here.
    """
    if 'mmpretrain' in sys.modules or not _is_unfit():
        return False
    # where MMPretrain looks, and OneDL's
    modules = [import_module(name) for name in ('importlib_metadata', 'importlib.metadata') if find_spec(name)]
    originals = [module.distribution for module in modules]
    for module in modules:
        module.distribution = partial(_distribution, module)
    try:
        import mmpretrain.models  # noqa: F401
    finally:
        for module, original in zip(modules, originals):
            module.distribution = original
    return True


def _distribution(metadata: ModuleType, name: str) -> Any:
    if name == 'transformers':
        raise metadata.PackageNotFoundError(name)
    return metadata.Distribution.from_name(name)


def _is_unfit() -> bool:
    """Returns whether transformers is too new, or is there without regex, which it needs."""
    try:
        return digit_version(version('transformers')) >= digit_version(TOO_NEW) or find_spec('regex') is None
    except PackageNotFoundError:
        return False
