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

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from mmengine.utils import ProgressBar

from mmfocal.cli.arguments import add_config
from mmfocal.cli.guards import add_guards
from mmfocal.errors import ConfigError

MAX_MESSAGES = 20  # of one kind in the terminal; a JSON file takes all
WORKERS = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()


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
        default=WORKERS,
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
    from mmfocal.datasets.wrappers import iterate_inner
    from mmfocal.engine import read_config

    sys.stdout.reconfigure(errors='backslashreplace')  # for names that are not valid text
    cfg = read_config(args.config, args.cfg_options)
    add_guards(cfg)
    init_default_scope(cfg.default_scope)
    start, seen, issues, files = time.time(), [], [], 0
    for split in args.split:
        for dataset in iterate_inner((cfg.get(f'{split}_dataloader') or {}).get('dataset') or {}):
            if not dataset or dataset in seen:
                continue
            seen.append(dataset)
            found, checks = _find_issues(dataset, cfg, split)
            found += decode_all(checks, args.workers) if args.images else _find_absent(checks)
            issues += [(split, issue) for issue in found]
            files += len(checks)
    if not seen:
        raise ConfigError(f'{args.config} has no data set for {", ".join(args.split)}; name another --split')
    totals = print_issues(issues)
    what = 'decoded' if args.images else 'looked for, none decoded (--images)'
    print(f'{files} files of {len(seen)} data sets {what} in {time.time() - start:.1f} s')
    if args.json:
        report = dict(
            config=args.config,
            files=files,
            decoded=args.images,
            counts=totals,
            issues=[dict(issue._asdict(), split=split, entry=None, error=None) for split, issue in issues],
        )
        with open(args.json, 'w') as file:
            json.dump(report, file, indent=1)
    raise SystemExit(1 if totals['error'] else 0)


def _find_issues(settings: dict, cfg: Config, split: str) -> tuple[list, list]:
    """Returns the issues of a data set's annotations or folders, and checks of its files."""
    from mmfocal.datasets.class_checks import find_classifier_issues, list_configured_numbers

    dataset = DATASETS.build(dict(settings, lazy_init=True))
    if not hasattr(dataset, 'find_issues'):
        raise ConfigError(
            f'{settings["type"]}: only data sets of mmfocal can be checked; write Checked before the name of '
            "MMDetection's CocoDataset and CocoPanopticDataset, MMPretrain's ImageNet and CustomDataset or "
            "MMSegmentation's ADE20KDataset and CityscapesDataset, or use LabelMapDataset"
        )
    issues, checks = dataset.find_issues()
    if cfg.get('default_scope') == 'mmpretrain' and dataset.metainfo.get('classes'):
        numbers = list_configured_numbers(cfg.get('model') or {})
        issues = [*issues, *find_classifier_issues(numbers, len(dataset.metainfo['classes']), split)]
    return issues, checks


def decode_all(checks: list, workers: int = WORKERS) -> list:
    """Runs all checks of files in several processes, and returns their issues."""
    show = sys.stderr.isatty()
    progress = ProgressBar(len(checks), file=sys.stderr if show else open(os.devnull, 'w'))
    issues = []
    with multiprocessing.get_context('fork').Pool(workers) as pool:
        for found in pool.imap_unordered(operator.call, checks, chunksize=8):
            issues += found
            progress.update()
    if show:
        print(file=sys.stderr)
    return sorted(issues, key=lambda issue: issue.file)


def _find_absent(checks: list) -> list:
    """Returns an issue for each file that is missing or empty, without decoding the others."""
    from mmfocal.datasets.validation.files import find_missing

    paths = [check.args[0] for check in checks]
    missing = set(find_missing(paths))
    return [
        issue
        for index, (path, check) in enumerate(zip(paths, checks))
        if index in missing or not os.path.getsize(path)
        for issue in check()
        if issue.file == path
    ]


def print_issues(issues: list[tuple[str, object]]) -> dict[str, dict[str, int]]:
    """Prints messages and counts by level and kind.

    Args:
        issues: With their splits.

    Returns:
        The counts, as `count_by_kind`.
    """
    from mmfocal.datasets.validation.issues import count_by_kind

    by_kind = defaultdict(list)
    for split, issue in issues:
        by_kind[issue.level, issue.kind].append(f'{issue.level}: {issue.message} [{split}]')
    for level in ('error', 'warning', 'note'):
        for messages in (lines for (of, _), lines in by_kind.items() if of == level):
            print('\n'.join(messages[:MAX_MESSAGES]))
            if len(messages) > MAX_MESSAGES:
                print(f'{level}: … and {len(messages) - MAX_MESSAGES} more of this kind')
    totals = count_by_kind(issue for _, issue in issues)
    for level, kinds in totals.items():
        print(f'{sum(kinds.values())} {level}s' + ''.join(f'\n  {number:7} {kind}' for kind, number in kinds.items()))
    return totals
