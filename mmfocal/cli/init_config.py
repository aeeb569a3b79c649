"""Writes a config for your own data in COCO format, which says only how it differs from one of mmfocal's.

DATA holds annotation files, whose names or folders have the words train and val, and their images; converters write
such a folder (mmfocal convert). With a config of a segmentor, DATA holds images and label maps in train/ and val/.
"""

import argparse
import io
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from mmfocal.errors import ConfigError
from mmfocal.text import join_some

COUNTS = ('num_classes', 'num_things_classes')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument('data', metavar='DATA', help='folder of the data set')
    parser.add_argument('--like', required=True, metavar='CONFIG', help='config to start from, by its name or path')
    parser.add_argument('--out', metavar='FILE', help='config to write; default: the name of DATA and .py')
    for split in ('train', 'val', 'test'):
        parser.add_argument(f'--{split}', metavar='FILE', help=f'annotation file for {split}, if several could be it')
    for split in ('train', 'val', 'test'):
        parser.add_argument(f'--{split}-images', metavar='DIR', help=f'folder of the images for {split}, likewise')
    parser.add_argument('--classes', nargs='+', metavar='NAME', help='segmentors: the classes, by the values of pixels')


def main(args: argparse.Namespace) -> None:
    """Writes the config, builds its model and data sets, and prints the next commands.

    Args:
        args: Of `add_arguments`.

    Raises:
        UserError: If the data set is not found or ambiguous, the config does not fit it, or the file exists.
    """
    import mmfocal.registration  # noqa: F401  registers what configs name
    from mmfocal.engine import read_config
    from mmfocal.files import write_atomically

    out = Path(args.out or f'{Path(args.data).absolute().name}.py')
    if out.suffix != '.py' or '.' in out.stem:  # of which MMEngine makes a module's name
        raise ConfigError(f'{out}: the name of a config ends in .py and has no other dot; choose it with --out')
    if out.exists():
        raise ConfigError(f'{out}: exists; choose another name with --out, or remove it')
    base = read_config(args.like)
    describe = _describe_label_maps if base.get('default_scope') == 'mmseg' else _describe_boxes
    settings, lines = describe(args, base)
    write_atomically(out, f"_base_ = '{_base_name(args.like, out)}'\n\n{settings}")
    try:
        _check(out)
    except BaseException:
        out.unlink()
        raise
    print('\n'.join([f'{out}: {args.like} for {args.data}', *lines, 'Next:']))
    print(f'  mmfocal check-dataset {out} --images\n  mmfocal train {out} --auto-scale-lr')


def _base_name(like: str, out: Path) -> str:
    """Returns how a config names its base: one of mmfocal's from any folder, a file by its path."""
    from mmfocal import CONFIGS
    from mmfocal.engine.config_paths import find_config

    path = find_config(like)
    if '::' in like:
        return like
    if path.resolve().parent == CONFIGS.resolve():
        return f'mmfocal::{path.name}'
    return str(path.resolve())


def _check(out: Path) -> None:
    """Builds the model and the data sets of the config that was written, without what libraries print."""
    from mmengine.registry import DATASETS, MODELS, init_default_scope

    from mmfocal.engine import read_config

    cfg = read_config(out)
    init_default_scope(cfg.default_scope)
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        MODELS.build(cfg.model)
        for split in ('train', 'val'):
            DATASETS.build(cfg[f'{split}_dataloader'].dataset)


def _describe_boxes(args: argparse.Namespace, base: Any) -> tuple[str, list[str]]:
    """Returns the text of a detector's config, and what was found."""
    from mmfocal.datasets.coco_tree import find_splits

    names = ('train', 'val', 'test')
    splits = find_splits(
        args.data,
        {name: getattr(args, name) for name in names},
        {name: getattr(args, f'{name}_images') for name in names},
    )
    if args.classes:
        raise ConfigError('--classes: the annotation files have the classes; leave it out')
    _check_kind(args.like, base, splits)
    classes = splits['train'].classes
    root = f'{str(args.data).rstrip("/")}/'
    folders = {split.images for split in splits.values()}
    shared = [f'    data_root={root!r},', f'    metainfo=dict(classes={classes!r}),']
    if len(folders) == 1:
        shared.insert(1, f'    data_prefix=dict(img={folders.pop()!r}),')
    text = ['data = dict(', *shared, ')']
    for name, split in splits.items():
        folder = f', data_prefix=dict(img={split.images!r})' if folders else ''
        dataset = f'dict(data, ann_file={split.ann_file!r}{folder})'
        text.append(f'{name}_dataloader = dict(dataset={_nested(base, name, dataset)})')
    if 'test' not in splits:
        text.append('test_dataloader = val_dataloader')
    text.append(f'val_evaluator = dict(ann_file={root + splits["val"].ann_file!r})')
    test = f'dict(ann_file={root + splits["test"].ann_file!r})' if 'test' in splits else 'val_evaluator'
    text += [f'test_evaluator = {test}', *_heads(base.model, len(classes))]
    found = [
        f'  {name}: {split.ann_file}, {split.num_images} images, {split.num_objects} objects, images in '
        f'{root}{split.images}'
        for name, split in splits.items()
    ]
    return '\n'.join(text) + '\n', [*found, f'  {len(classes)} classes: {join_some(classes, 10)}']


def _check_kind(like: str, base: Any, splits: dict) -> None:
    """Refuses a config that needs other annotations than boxes and masks, or masks that the files do not have.

    Raises:
        ConfigError: With what it needs.
    """
    train = str(base.train_dataloader)
    if 'Panoptic' in train or 'with_seg' in train:
        raise ConfigError(f'{like}: needs annotations of segments beside boxes; choose a config that is not panoptic')
    if isinstance(base.get('val_evaluator'), list):
        raise ConfigError(f'{like}: has several evaluators; choose a config with one')
    without = [split.ann_file for name, split in splits.items() if name != 'test' and not split.has_masks]
    if "'with_mask': True" in train and without:
        raise ConfigError(f'{like}: needs masks, and {without[0]} has objects without; choose a detector of boxes')


def _nested(base: Any, name: str, dataset: str) -> str:
    """Returns the settings of a data set, inside the wrappers that the base has."""
    inner, depth = base[f'{name}_dataloader'].dataset, 0
    while 'dataset' in inner:
        inner, depth = inner.dataset, depth + 1
    if 'datasets' in inner:
        raise ConfigError(f'{base.filename}: joins several data sets; choose a config with one')
    return 'dict(dataset=' * depth + dataset + ')' * depth


def _heads(model: Any, count: int) -> list[str]:
    """Returns the lines that set the number of classes wherever a model has one."""
    helpers: list[str] = []
    settings = _changes(model, count, '_base_.model', helpers)
    if not settings:
        raise ConfigError('this model has no num_classes; choose another config with --like')
    return [*helpers, f'model = {settings}']


def _changes(node: Any, count: int, path: str, helpers: list[str]) -> str:
    """Returns the source of a dict with the changes of a node, or an empty text; lists become variables."""
    parts = []
    for key, value in node.items():
        if key in COUNTS:
            parts.append(f'{key}={count}')
        elif key == 'class_weight' and isinstance(value, (list, tuple)):  # the last is that of no object
            parts.append(f'{key}=[1.0] * {count} + [{value[-1]}]')
        elif isinstance(value, dict):
            inner = _changes(value, count, f'{path}.{key}', helpers)
            parts += [f'{key}={inner}'] if inner else []
        elif isinstance(value, (list, tuple)) and any(
            isinstance(item, dict) and 'num_classes' in item for item in value
        ):
            helpers.append(f'{key}s = [dict(head, num_classes={count}) for head in {path}.{key}]')
            parts.append(f'{key}={key}s')
    return f'dict({", ".join(parts)})' if parts else ''


def _describe_label_maps(args: argparse.Namespace, base: Any) -> tuple[str, list[str]]:
    """Returns the text of a segmentor's config, and what was found."""
    from mmfocal.datasets.label_map_tree import find_label_map_splits, read_class_names

    splits = find_label_map_splits(args.data)
    classes = tuple(args.classes or ()) or read_class_names(args.data)
    if not classes:
        raise ConfigError(
            f"{args.data}: no classes.txt; name the classes in the order of pixels' values with --classes"
        )
    root = f'{str(args.data).rstrip("/")}/'
    suffixes = tuple(sorted({suffix for split in splits.values() for suffix in split.suffixes}))
    shared = ["    type='LabelMapDataset',", f'    data_root={root!r},', f'    metainfo=dict(classes={classes!r}),']
    if suffixes != ('.jpg',):
        shared.append(f'    img_suffix={suffixes if len(suffixes) > 1 else suffixes[0]!r},')
    text = ['data = dict(', *shared, ')']
    for name, split in splits.items():
        dataset = f'dict(data, data_prefix=dict(img_path={split.images!r}, seg_map_path={split.labels!r}))'
        text.append(f'{name}_dataloader = dict(dataset={_nested(base, name, dataset)})')
    text += ['test_dataloader = val_dataloader', *_heads(base.model, len(classes))]
    found = [f'  {name}: {split.num_images} images in {root}{split.images}' for name, split in splits.items()]
    return '\n'.join(text) + '\n', [*found, f'  {len(classes)} classes: {join_some(classes, 10)}']
