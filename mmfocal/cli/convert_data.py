"""What the converters of data sets share: arguments, messages and the check of the result."""

import argparse
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from mmfocal.cli.check_dataset import MAX_MESSAGES, decode_all, print_issues
from mmfocal.text import join_some


def add_common(parser: argparse.ArgumentParser, src: str) -> None:
    """Adds the arguments of all formats.

    Args:
        parser: The subcommand's.
        src: Help for SRC.
    """
    parser.add_argument('src', metavar='SRC', help=src)
    parser.add_argument('dst', metavar='DST', help='folder to create: annotations/<split>.json and images/')
    parser.add_argument(
        '--classes', nargs='+', metavar='NAME', help='classes to convert, in the order of their ids; default: all'
    )
    parser.add_argument(
        '--images',
        choices=['link', 'copy'],
        default='link',
        help='put relative symbolic links to the images into DST (default), or copies',
    )
    parser.add_argument(
        '--val', type=float, default=0.0, metavar='FRACTION', help='images for val.json, of a source without splits'
    )
    parser.add_argument(
        '--skip-bad', action='store_true', help='leave out files with errors; by default one error stops the conversion'
    )


def add_rotated(parser: argparse.ArgumentParser) -> None:
    """Adds what becomes of rotated rectangles."""
    parser.add_argument(
        '--rotated',
        choices=['box', 'polygon', 'refuse'],
        default='box',
        help='rotated rectangles become their upright box (default), their corners as a mask, or an error',
    )


def run(format: str, args: argparse.Namespace) -> None:
    """Converts, prints what was changed, validates the result, and exits with code 1 if there is an error.

    Args:
        format: A key of `converters.FORMATS`.
        args: With what `add_common` adds.

    Raises:
        UserError: If nothing can be converted.
    """
    from mmfocal.datasets.converters import convert
    from mmfocal.datasets.converters.records import Settings

    sys.stdout.reconfigure(errors='backslashreplace')  # for names that are not valid text
    settings = Settings(rotated=getattr(args, 'rotated', 'box'), first_pixel=getattr(args, 'first_pixel', None))
    splits, report = convert(
        format,
        args.src,
        args.dst,
        classes=args.classes,
        images=args.images,
        val=args.val,
        skip_bad=args.skip_bad,
        settings=settings,
    )
    for message in report.errors[:MAX_MESSAGES]:
        print(f'{"left out" if args.skip_bad else "error"}: {message}')
    if len(report.errors) > MAX_MESSAGES:
        print(f'… and {len(report.errors) - MAX_MESSAGES} more')
    for line in report.lines():
        print(f'note: {line}')
    if splits is None:
        number = len(report.errors)
        print(f'{args.src}: {number} file{"s" * (number > 1)} with errors, nothing written; --skip-bad leaves them out')
        raise SystemExit(1)
    for name, coco in splits.items():
        print(f'{Path(args.dst, "annotations", name)}.json: {_count(coco)}')
    totals = check(Path(args.dst), splits)
    print(f'Next: mmfocal init-config {args.dst} --like atss_focal_tiny_swin_init_1x')
    raise SystemExit(1 if totals['error'] else 0)


def check(dst: Path, splits: dict[str, dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Validates a converted data set as `check-dataset --images` does, and prints the result.

    Args:
        dst: Its folder.
        splits: The annotations by split.

    Returns:
        Numbers of issues by level and kind.
    """
    from mmfocal.datasets.validation.annotations import validate_annotations
    from mmfocal.datasets.validation.images import find_image_issues

    issues, checks = [], {}
    for name, coco in splits.items():
        masks = bool(coco['annotations']) and all('segmentation' in entry for entry in coco['annotations'])
        found, _ = validate_annotations(
            coco, str(dst / 'annotations' / f'{name}.json'), test_mode=name != 'train', masks=masks
        )
        issues += [(name, issue) for issue in found]
        for image in coco['images']:
            path = str(dst / 'images' / image['file_name'])
            size = image['height'], image['width']
            checks.setdefault(path, (name, partial(find_image_issues, path, image['id'], size)))
    split_of = {path: name for path, (name, _) in checks.items()}
    found = decode_all([one for _, one in checks.values()])
    totals = print_issues(issues + [(split_of[issue.file], issue) for issue in found])
    print(f'{len(checks)} images decoded')
    return totals


def _count(coco: dict[str, Any]) -> str:
    names = {category['id']: category['name'] for category in coco['categories']}
    counts = Counter(names[entry['category_id']] for entry in coco['annotations'])
    each = join_some((f'{name} {counts[name]}' for name in names.values()), 10)
    return f'{len(coco["images"])} images, {len(coco["annotations"])} objects: {each}'
