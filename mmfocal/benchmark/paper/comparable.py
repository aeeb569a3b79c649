"""Decides whether a run is comparable with the paper: complete, and with its config's settings."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmfocal.benchmark.paper.collect import figures
from mmfocal.text import join_some

# These decide a result; the rest is paths, logging, workers and the validation interval.
SETTINGS = (
    'model',
    'train_cfg',
    'optim_wrapper',
    'param_scheduler',
    'train_dataloader.dataset',
    'test_dataloader.dataset',
    'test_evaluator',
)
PATHS = (
    'init_cfg',
    'checkpoint',
    'data_root',
    'ann_file',
    'data_prefix',
    'backend_args',
    'file_client_args',
    'val_interval',
    'val_begin',
    'with_cp',
    '_scope_',
)
# Types that configs named before, or name in MMDetection's and MMSegmentation's configs, and that compute the same.
SAME = {
    'EpochBasedTrainLoop': 'ResumableEpochLoop',
    'IterBasedTrainLoop': 'ResumableIterLoop',
    'DIIHead': 'StableDIIHead',
}
IMAGES = {'ImageNet-1K': 50000, 'COCO val2017': 5000, 'ADE20K val': 2000}


def objections(run: dict, row: dict, configs: Path) -> list[str]:
    """Returns the reasons why a run cannot be compared with a row of the paper's.

    Args:
        run: Of `collect`, with the row's config.
        row: Of `mmfocal.benchmark.paper.tables`.
        configs: The folder with the configs.
    """
    found = []
    if not figures(run):
        return [f'failed: {run["failed"]}' if run['failed'] else 'no validation yet']
    if not run['settings']:
        return ['its schedule and data are unknown, as it left no config']
    ours = Config.fromfile(configs / f'{row["config"]}.py', import_custom_modules=False).to_dict()
    keys = [
        difference for key in SETTINGS for difference in differences(pick(run['settings'], key), pick(ours, key), key)
    ]
    if keys:
        found.append(f'{join_some(keys, 4)}: not as in configs/{row["config"]}.py')
    if run['done'] is None or run['planned'] is None or run['done'] < run['planned']:
        done = 0 if run['done'] is None else run['done']
        found.append(f'{done:g} of {run["planned"] or "?"} {run["unit"]}s done')
    images, batches = IMAGES[row['dataset']], run['validation_batches']
    across = run['test_batch'] and run['processes'] and run['test_batch'] * run['processes']
    if batches and across and not images <= batches * across < images + across:
        found.append(f'validated on about {batches * across:g} images instead of {images}')
    return found


def pick(settings: Any, key: str) -> Any:
    """Returns the setting at a dotted key, None if there is none."""
    for part in key.split('.'):
        settings = settings.get(part) if isinstance(settings, dict) else None
    return settings


def differences(theirs: Any, ours: Any, key: str) -> Iterator[str]:
    """Yields the keys at which two settings differ, except for paths."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for name in sorted((theirs.keys() | ours.keys()) - set(PATHS)):
            yield from differences(theirs.get(name), ours.get(name), f'{key}.{name}')
    elif isinstance(theirs, (list, tuple)) and isinstance(ours, (list, tuple)) and len(theirs) == len(ours):
        for i, (one, other) in enumerate(zip(theirs, ours)):
            yield from differences(one, other, f'{key}.{i}')
    elif as_text(SAME.get(theirs, theirs) if isinstance(theirs, str) else theirs) != as_text(ours):
        yield key


def as_text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
