"""Makes MMPretrain importable beside a transformers that its multimodal models cannot work with."""

import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

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
    if 'mmpretrain' in sys.modules or not find_spec('importlib_metadata') or not _is_unfit():
        return False
    import importlib_metadata  # where MMPretrain looks

    find = importlib_metadata.distribution

    def distribution(name: str) -> importlib_metadata.Distribution:
        if name == 'transformers':
            raise importlib_metadata.PackageNotFoundError(name)
        return find(name)

    importlib_metadata.distribution = distribution
    try:
        import mmpretrain.models  # noqa: F401
    finally:
        importlib_metadata.distribution = find
    return True


def _is_unfit() -> bool:
    """Returns whether transformers is too new, or is there without regex, which it needs."""
    try:
        return digit_version(version('transformers')) >= digit_version(TOO_NEW) or find_spec('regex') is None
    except PackageNotFoundError:
        return False
