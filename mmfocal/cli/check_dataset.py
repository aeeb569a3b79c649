"""Lists all problems of a config's data sets.

Errors are what would stop training, or what is surely wrong; warnings are what deserves a look. The exit code is 1
if there are errors.
"""

import argparse
import json
import multiprocessing
import operator
import os
import sys
import time
from collections import defaultdict

from mmengine.registry import DATASETS, init_default_scope
from mmengine.utils import ProgressBar

from mmfocal.cli.arguments import add_config
from mmfocal.errors import ConfigError

MOST = 20  # sentences of one kind, unless a JSON file takes all


def inner_configs(cfg):
    """The data sets within wrappers, as ConcatDataset and RepeatDataset."""
    if 'dataset' in cfg:
        return inner_configs(cfg['dataset'])
    if 'datasets' in cfg:
        return [inner for dataset in cfg['datasets'] for inner in inner_configs(dataset)]
    return [cfg]


def find_faults(cfg):
    """The faults of a data set's annotations, and the checks of its files."""
    dataset = DATASETS.build(dict(cfg, lazy_init=True))
    if not hasattr(dataset, 'find_faults'):
        raise ConfigError(
            f'{cfg["type"]}: only data sets of mmfocal can be checked; write Checked before the name of '
            "MMDetection's CocoDataset and CocoPanopticDataset or MMSegmentation's ADE20KDataset and "
            'CityscapesDataset, or use LabelMapDataset'
        )
    return dataset.find_faults()


def look_at_images(checks, workers):
    """Decodes all files, in several processes."""
    show = sys.stderr.isatty()
    progress = ProgressBar(len(checks), file=sys.stderr if show else open(os.devnull, 'w'))
    faults = []
    with multiprocessing.get_context('fork').Pool(workers) as pool:
        for found in pool.imap_unordered(operator.call, checks, chunksize=8):
            faults += found
            progress.update()
    if show:
        print(file=sys.stderr)
    return sorted(faults, key=lambda fault: fault.file)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    add_config(parser)
    parser.add_argument(
        '--split',
        nargs='+',
        choices=['train', 'val', 'test'],
        default=['train', 'val', 'test'],
        help='splits whose data sets are checked; default: all, each data set once',
    )
    parser.add_argument('--images', action='store_true', help='decode all images and label maps as well')
    parser.add_argument(
        '--workers',
        type=int,
        default=len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count(),
        metavar='N',
        help='processes that decode; default: one per core',
    )
    parser.add_argument('--json', metavar='FILE', help='write all issues there')


def main(args: argparse.Namespace) -> None:
    """Prints what is wrong, and exits with code 1 if there is an error.

    Args:
        args: Of `add_arguments`.

    Raises:
        UserError: If the config cannot be used.
    """
    import mmfocal.registration  # noqa: F401  registers what configs name
    from mmfocal.datasets.validation.report import absent_files, counts
    from mmfocal.engine import read_config

    sys.stdout.reconfigure(errors='backslashreplace')  # for names that are no text
    cfg = read_config(args.config, args.cfg_options)
    init_default_scope(cfg.default_scope)
    start, seen, faults, files = time.time(), [], [], 0
    for split in args.split:
        for dataset in inner_configs((cfg.get(f'{split}_dataloader') or {}).get('dataset') or {}):
            if not dataset or dataset in seen:
                continue
            seen.append(dataset)
            found, checks = find_faults(dataset)
            found += look_at_images(checks, args.workers) if args.images else absent_files(checks)
            faults += [(split, fault) for fault in found]
            files += len(checks)
    if not seen:
        raise ConfigError(f'{args.config} has no data set for {", ".join(args.split)}; name another --split')
    by_kind = defaultdict(list)
    for split, fault in faults:
        by_kind[fault.level, fault.kind].append(f'{fault.level}: {fault.sentence} [{split}]')
    for level in ('error', 'warning', 'note'):
        for sentences in (lines for (of, _), lines in by_kind.items() if of == level):
            print('\n'.join(sentences[:MOST]))
            if len(sentences) > MOST:
                print(f'{level}: … and {len(sentences) - MOST} more of this kind')
    totals = counts([fault for _, fault in faults])
    for level, kinds in totals.items():
        print(f'{sum(kinds.values())} {level}s' + ''.join(f'\n  {number:7} {kind}' for kind, number in kinds.items()))
    what = 'decoded' if args.images else 'looked for, none decoded (--images)'
    print(f'{files} files of {len(seen)} data sets {what} in {time.time() - start:.1f} s')
    if args.json:
        with open(args.json, 'w') as file:
            json.dump(
                dict(
                    config=args.config,
                    files=files,
                    decoded=args.images,
                    counts=totals,
                    faults=[dict(fault._asdict(), split=split, entry=None) for split, fault in faults],
                ),
                file,
                indent=1,
            )
    raise SystemExit(1 if totals['error'] else 0)
