"""The config that a checkpoint holds as text: read as data and checked, so that a file from a stranger runs no code.

Two things are used of it, the model and the test pipeline; everything else is left out. They are settings of classes
that MMEngine, MMDetection, MMSegmentation, mmfocal or the user's own imports have registered. MMEngine itself would
import whatever module a `type` names, and some classes evaluate their arguments or load the file that one names: such
settings are refused here.
"""

import importlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS, TASK_UTILS, TRANSFORMS, registry
from mmengine.utils import import_modules_from_strings

from mmfocal.datasets.wrappers import iterate_inner
from mmfocal.engine.command_line import check_packages
from mmfocal.engine.config_text import read_settings
from mmfocal.errors import CheckpointError, ConfigError

SCOPES = ('mmengine', 'mmdet', 'mmseg', 'mmpretrain')
_REGISTRIES = (MODELS, TASK_UTILS, TRANSFORMS)
_DROPPED = {'init_cfg', 'pretrained', 'checkpoint_path', 'teacher_ckpt', 'backend_args', 'file_client_args'}
_REFUSED = {'teacher_config', 'checkpoint', 'lang_model_name', 'tokenizer_name'}  # of other files and downloads
# The first evaluates an argument as Python, the second loads what it is given.
_REFUSED_MODULES = ('mmdet.models.task_modules.tracking', 'mmdet.models.language_models')
# Of MMPretrain only parts of image classifiers; others download models, or load the file that they name.
_MMPRETRAIN_MODULES = tuple(
    f'mmpretrain.{name}'
    for name in (
        'models.backbones',
        'models.necks',
        'models.heads',
        'models.losses',
        'models.classifiers.image',
        'models.utils',
        'datasets.transforms',
    )
)
_REFUSED_MODULES += tuple(
    f'mmpretrain.models.{name}'
    for name in ('backbones.timm_backbone', 'heads.vqa_head', 'utils.huggingface', 'utils.tokenizer')
)
# What MMCV and MMDetection look up by themselves: functions of mmcv.ops.nms, layers of mmcv.ops, transitions of FPG.
_OPERATORS = {'nms', 'soft_nms', 'nms_match', 'nms_rotated', 'nms_quadri', 'RoIAlign', 'RoIPool'}
_OPERATORS |= {'conv', 'interpolation_conv', 'last_conv'}
_FILE = re.compile(r'[/\\]|\.[A-Za-z]\w*$')


def read_checkpoint_config(text: str, where: str) -> Config:
    """Reads what predicting needs from the config text of a checkpoint, without running it.

    Args:
        text: `meta['cfg']`.
        where: Name of the checkpoint, for messages.

    Returns:
        With `default_scope`, `model` and `test_dataloader.dataset`'s `type`, `metainfo` and `pipeline`. Initial weights
        and settings of file backends are left out.

    Raises:
        CheckpointError: If the text is not that of a saved config, or has settings that could load files or run code.
        ConfigError: If a package that it needs is not installed.
    """
    try:
        settings = read_settings(text)
    except ValueError as error:
        raise _refused(where, f'is not plain data: {error}') from error
    scope = settings.get('default_scope') or 'mmdet'
    if scope not in ('mmdet', 'mmseg', 'mmpretrain'):
        raise _refused(where, f'has default_scope={scope!r}, none of mmdet, mmseg and mmpretrain')
    if not isinstance(settings.get('model'), dict) or 'type' not in settings['model']:
        raise _refused(where, 'has no model')
    dataset = _test_set(settings)
    check_packages(Config(dict(default_scope=scope, model=settings['model'])), where)
    checker = _Checker(where)
    if scope == 'mmpretrain':  # Mixup and CutMix
        settings['model'] = _without_batch_augments(settings['model'])
    model = checker.clean(settings['model'], 'model', scope)
    pipeline = checker.clean(dataset.get('pipeline') or [], 'pipeline', scope)
    metainfo = dataset.get('metainfo')
    kept = dict(pipeline=pipeline, metainfo=metainfo if isinstance(metainfo, dict) else {})
    if isinstance(dataset.get('type'), str):
        kept['type'] = dataset['type']
    return Config(dict(default_scope=scope, model=model, test_dataloader=dict(dataset=kept)))


@contextmanager
def only_registered() -> Iterator[None]:
    """Lets MMEngine build registered classes only: names of other classes are not imported, but unknown."""
    original = registry.get_object_from_string
    registry.get_object_from_string = lambda _: None
    try:
        yield
    finally:
        registry.get_object_from_string = original


def without_initial_weights(settings: Any) -> Any:
    """Returns a copy of a model's settings without `init_cfg` and `pretrained`, however deep."""
    if isinstance(settings, Mapping):
        kept = {key: value for key, value in settings.items() if key not in ('init_cfg', 'pretrained')}
        return type(settings)({key: without_initial_weights(value) for key, value in kept.items()})
    if isinstance(settings, (list, tuple)):
        return type(settings)(map(without_initial_weights, settings))
    return settings


def _without_batch_augments(model: dict) -> dict:
    """Returns a classifier's settings without those of training."""
    kept = {key: value for key, value in model.items() if key != 'train_cfg'}
    preprocessor = kept.get('data_preprocessor')
    if isinstance(preprocessor, dict):
        kept['data_preprocessor'] = {key: value for key, value in preprocessor.items() if key != 'batch_augments'}
    return kept


def _test_set(settings: dict) -> dict:
    """Returns the settings of the innermost test set, or of the first of several."""
    for key in ('test_dataloader', 'val_dataloader'):
        loader = settings.get(key)
        dataset = loader.get('dataset') if isinstance(loader, dict) else None
        if isinstance(dataset, dict):
            inner = next((one for one in iterate_inner(dataset) if isinstance(one, dict)), None)
            if inner:
                return inner
    return {}


def _refused(where: str, what: str) -> CheckpointError:
    return CheckpointError(f'{where}: its config {what}; pass the file that it was trained with as --config')


class _Checker:
    """Copies settings and checks them on the way.

    Args:
        where: Name of the checkpoint, for messages.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.registered: dict[str, dict[str, Any]] = {}

    def clean(self, node: Any, path: str, scope: str) -> Any:
        """Returns a copy of settings.

        Args:
            node: A part of the config.
            path: Its dotted name, for messages.
            scope: Where its types are looked up, unless they name another.
        """
        if isinstance(node, dict):
            scope = node.get('_scope_', scope)
            if scope not in SCOPES:
                raise _refused(self.where, f'has {path}._scope_={scope!r}, which is none of OpenMMLab')
            kept = {}
            for key, value in node.items():
                if key in _DROPPED:
                    continue
                if key in _REFUSED and value:
                    raise _refused(self.where, f'names a file or a download, {path}.{key}={value!r:.60}')
                if key == 'type' and isinstance(value, str):
                    kept[key] = self._type(value, path, scope)
                else:
                    kept[key] = self.clean(value, f'{path}.{key}', scope)
            return kept
        if isinstance(node, (list, tuple)):
            return type(node)(self.clean(item, f'{path}.{i}', scope) for i, item in enumerate(node))
        if isinstance(node, str) and _FILE.search(node):
            raise _refused(self.where, f'names a file, {path}={node!r:.60}')
        return node

    def _type(self, name: str, path: str, scope: str) -> str:
        """Returns the name under which a class is registered."""
        if name in _OPERATORS:
            return name
        prefix, _, rest = name.partition('.')
        if rest and '.' not in rest and prefix in SCOPES:
            scope, key = prefix, rest
        elif not rest:
            key = name
        else:  # a class by its module, as in configs that import
            scope, key = prefix if prefix in SCOPES else scope, self._key_of(name, prefix, scope)
        found = self._registered(scope).get(key)
        if found is None:
            raise _refused(self.where, f'has {path}.type={name!r:.60}, which is not registered')
        module = getattr(found, '__module__', '')
        is_refused = module.startswith('mmpretrain.') and not module.startswith(_MMPRETRAIN_MODULES)
        if is_refused or module.startswith(_REFUSED_MODULES):
            raise _refused(self.where, f'has {path}.type={name!r:.60}, which could load files or run code')
        return f'{scope}.{key}' if rest and prefix in SCOPES else key

    def _key_of(self, name: str, package: str, scope: str) -> str:
        """Returns the key of a class that is named with its module: of `torch.nn.GroupNorm`, GN."""
        module, _, last = name.rpartition('.')
        for key, cls in self._registered(package if package in SCOPES else scope).items():
            if getattr(cls, '__name__', '') == last and cls.__module__.startswith(module):
                return key
        return name

    def _registered(self, scope: str) -> dict[str, Any]:
        """Returns what is registered in a scope, and in MMEngine's, by name."""
        if scope not in self.registered:
            found: dict[str, Any] = {}
            if scope != 'mmengine' and find_spec(scope):
                try:
                    importlib.import_module(f'{scope}.registry')
                except ImportError as error:
                    raise ConfigError(f'{self.where}: {scope} cannot be imported here ({error})') from error
            import_modules_from_strings('mmfocal.registration')  # it stands above this package in the law of imports
            for root in _REGISTRIES:
                for node in (root, root.children.get(scope)):
                    if node is not None and node.scope in ('mmengine', scope):
                        node.import_from_location()
                        found.update(node.module_dict)
            self.registered[scope] = found
        return self.registered[scope]
