"""Guards for configs of MMDetection, MMPretrain and MMSegmentation: atomic checkpoints, divergence, bad data."""

from mmengine.config import Config

REGISTRATION = 'mmfocal.registration'
# By the scope that a config's types are looked up in.
DATA = {
    'mmdet': {
        'CocoDataset': 'CheckedCocoDataset',
        'CocoMetric': 'CheckedCocoMetric',
        'CocoPanopticDataset': 'CheckedCocoPanopticDataset',
        'CocoPanopticMetric': 'CheckedCocoPanopticMetric',
    },
    'mmpretrain': {'CustomDataset': 'CheckedCustomDataset', 'ImageNet': 'CheckedImageNet'},
    'mmseg': {
        'ADE20KDataset': 'CheckedADE20KDataset',
        'CityscapesDataset': 'CheckedCityscapesDataset',
        'LoadAnnotations': 'LoadCheckedAnnotations',
    },
}
# LoadCheckedAnnotations takes reduce_zero_label from the data set, which MMSegmentation requires to agree.
LABEL_MAP_KEYS = {'type', 'backend_args', 'imdecode_backend', 'reduce_zero_label'}
HOOKS = {
    'host_memory': 'HostMemoryHook',
    'divergence': 'DivergenceHook',
    'bad_data': 'BadDataHook',
}


def add_guards(cfg: Config) -> None:
    """Adds to a config of another OpenMMLab library what mmfocal's configs have, and prints what it changes.

    Checkpoints are written atomically, training stops at NaN, and data sets are validated if they are of a type that
    mmfocal can validate. Configs that import `mmfocal.registration` are left as they are.

    Args:
        cfg: The config, which is changed.
    """
    imports = cfg.get('custom_imports') or dict(imports=[], allow_failed_imports=False)
    names = [imports['imports']] if isinstance(imports['imports'], str) else list(imports['imports'] or [])
    if REGISTRATION in names:
        return
    cfg.custom_imports = dict(imports, imports=[*names, REGISTRATION])  # for whoever loads the config that is saved
    changed = []
    scope = cfg.get('default_scope')
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader', 'val_evaluator', 'test_evaluator'):
        changed += replace_types(cfg.get(key), DATA.get(scope, {}))
    hooks = cfg.setdefault('default_hooks', {})
    changed += replace_types(hooks, {'CheckpointHook': 'SafeCheckpointHook'})
    present = {hook['type'] for hook in [*hooks.values(), *(cfg.get('custom_hooks') or [])] if hook}
    guards = dict(HOOKS)
    if any(new.endswith(('Dataset', 'ImageNet')) for _, new in changed):
        guards['check_classes'] = 'CheckClassesHook'
    added = {name: hook for name, hook in guards.items() if hook not in present}
    for name, hook in added.items():
        hooks[name] = dict(type=hook)
    lines = [f'{old} -> {new}' for old, new in dict.fromkeys(changed)]
    print('; '.join([f'{cfg.filename}: guards of mmfocal', *lines, *(f'+ {hook}' for hook in added.values())]))


def replace_types(settings: object, replacements: dict[str, str]) -> list[tuple[str, str]]:
    """Replaces the types of all settings, however deep; returns the pairs of old and new name."""
    if isinstance(settings, (list, tuple)):
        return [pair for one in settings for pair in replace_types(one, replacements)]
    if not isinstance(settings, dict):
        return []
    changed = [pair for value in settings.values() for pair in replace_types(value, replacements)]
    old = settings.get('type')
    new = replacements.get(old.rpartition('.')[2]) if isinstance(old, str) else None
    if new and (new != 'LoadCheckedAnnotations' or settings.keys() <= LABEL_MAP_KEYS):
        settings['type'] = new
        if new == 'LoadCheckedAnnotations':
            settings.pop('reduce_zero_label', None)
        changed.append((old, new))
    return changed
