"""Measures time and memory of focal attention against Swin's and against roll + unfold."""

import argparse
import json
from pathlib import Path

import torch

from mmfocal.benchmark.arguments import at_least, image_size
from mmfocal.benchmark.environment import describe, environment
from mmfocal.benchmark.speed import plot, report
from mmfocal.benchmark.speed.cases import ARCHS, SCALING_SIDES, Case, preset_cases
from mmfocal.benchmark.speed.comparison import Settings, compare
from mmfocal.benchmark.speed.implementations import BACKBONES, OPERATORS, implementations
from mmfocal.errors import ConfigError

NAMES = list({**BACKBONES, **OPERATORS})
NOT_BY_DEFAULT = ('focal_with_cp', 'swin_mmdet_with_cp')  # blocks recomputed in backward: for memory
SWINS = ('swin_mmdet', 'swin_timm', 'swin_timm_fused', 'swin_torchvision')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `tools/benchmark.py speed`."""
    parser.add_argument(
        '--what',
        nargs='+',
        choices=['backbone', 'attention'],
        help="whole backbones, or the attention operator alone at each stage's map size (default: backbone)",
    )
    parser.add_argument(
        '--mode', nargs='+', choices=['forward', 'train'], help='inference, or forward and backward (default: forward)'
    )
    parser.add_argument(
        '--sizes',
        nargs='+',
        type=image_size,
        metavar='HEIGHTxWIDTH',
        help='image sizes in pixels (default: 224x224 800x1216)',
    )
    parser.add_argument('--batch', type=at_least(1), metavar='N', help='images per batch (default: 1)')
    parser.add_argument(
        '--dtype',
        choices=['float32', 'bfloat16', 'float16'],
        help='half precision: cast weights for inference, mixed precision for training (default: float32)',
    )
    parser.add_argument(
        '--autocast', action='store_true', help='half precision by mixed precision (torch.autocast) for inference too'
    )
    parser.add_argument('--arch', choices=list(ARCHS), help='default: tiny; nano is for trying the command')
    parser.add_argument('--device', choices=['cpu', 'cuda'], help='default: cuda if there is a GPU')
    parser.add_argument(
        '--threads', type=at_least(1), metavar='N', help="CPU threads (default: torch's choice; 2 with --all)"
    )
    parser.add_argument(
        '--models',
        nargs='+',
        choices=NAMES,
        metavar='NAME',
        help=f'what to measure (default: all without with_cp; flex_attention on a GPU only): {", ".join(NAMES)}',
    )
    parser.add_argument('--compile', action='store_true', help='use torch.compile for every model')
    parser.add_argument('--profile', action='store_true', help='also list the operators that take longest')
    parser.add_argument(
        '--isolate',
        action='store_true',
        help='on the CPU: time each model in its own process, so that they do not share an allocator',
    )
    parser.add_argument(
        '--repeats', type=at_least(1), default=10, metavar='N', help='rounds; results are their medians (default: 10)'
    )
    parser.add_argument(
        '--out', default='work_dirs/speed', metavar='DIR', help='gets speed.json and speed.png (default: %(default)s)'
    )
    preset = parser.add_mutually_exclusive_group()
    preset.add_argument('--all', action='store_true', help='the cases of docs/operator/performance.md for this device')
    preset.add_argument(
        '--scaling',
        action='store_true',
        help=f'Focal and Swin from {SCALING_SIDES[0]}² to {SCALING_SIDES[-1]}² pixels, or at --sizes',
    )


def main(args: argparse.Namespace) -> None:
    """Measures, prints tables, and writes speed.json and speed.png.

    Args:
        args: Of `add_arguments`.

    Raises:
        ConfigError: If arguments do not fit together.
    """
    check(args)
    args.device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    threads = args.threads or (2 if args.all else None)
    if threads:
        torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = args.device == 'cuda'
    cases = preset_cases(args.device) if args.all else make_cases(args)
    settings = Settings(chosen_names(args, cases), args.repeats, torch.get_num_threads(), args.profile, args.isolate)
    folder = make_folder(args.out)

    machine = environment(args.device)
    print(describe(machine), flush=True)
    comparisons = []
    for case in cases:
        print(f'\n{case}', flush=True)
        comparisons.append(compare(case, settings))
        print(report.comparison_table(comparisons[-1]), flush=True)
        if args.profile:
            print('\n' + report.profile_table(comparisons[-1]), flush=True)
    record = dict(environment=machine, cases=[report.comparison_record(one) for one in comparisons])
    if args.scaling:
        print('\n' + report.scaling_table(comparisons))
        record['scaling'] = report.scaling_record(comparisons)
    elif len(comparisons) > 1:
        print('\n' + report.summary_table(comparisons))
    path = folder / 'speed.json'
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + '\n')
    print(f'\n{path}')
    print((plot.plot_scaling if args.scaling else plot.plot_bars)(comparisons, folder / 'speed.png'))


def check(args: argparse.Namespace) -> None:
    """Raises ConfigError if arguments do not fit together."""
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise ConfigError('--device cuda: PyTorch sees no GPU; leave it out to measure on the CPU')
    if args.isolate and args.profile:
        raise ConfigError('--isolate: cannot be combined with --profile; leave out one of them')
    if args.isolate and (args.device == 'cuda' or not args.device and torch.cuda.is_available()):
        raise ConfigError('--isolate: works on the CPU only; leave it out or add --device cpu')
    if args.autocast and args.dtype in (None, 'float32'):
        raise ConfigError('--autocast: is for half precision; add --dtype bfloat16 or float16')
    if args.autocast and args.what and 'attention' in args.what:
        raise ConfigError('--autocast: is for backbones; leave out --what attention')
    if args.all:
        chosen = ('what', 'mode', 'sizes', 'batch', 'dtype', 'autocast', 'arch', 'compile')
        given = [name for name in chosen if getattr(args, name)]
        if given:
            raise ConfigError(f'--all: chooses its cases itself; leave out --{given[0]}')
    if args.scaling and (args.what or len(args.mode or ()) > 1):
        raise ConfigError('--scaling: measures backbones in one mode; leave out --what and give --mode one value')


def chosen_names(args: argparse.Namespace, cases: list[Case]) -> list[str]:
    """Returns the implementations to measure.

    Raises:
        ConfigError: If there is none for a case.
    """
    names = args.models
    if not names:
        names = ['focal', *SWINS] if args.scaling else [name for name in NAMES if name not in NOT_BY_DEFAULT]
        if args.all:
            names = ['focal', 'roll_unfold', 'flex_attention', 'window_sdpa', *SWINS]
        if args.device == 'cpu':  # where FlexAttention compiles for minutes
            names = [name for name in names if name != 'flex_attention']
    for what in {case.what for case in cases}:
        known = implementations(what)
        if not set(names) & set(known):
            raise ConfigError(f'--models {" ".join(names)}: none is for {what}; choose from {", ".join(known)}')
    return names


def make_folder(path: str) -> Path:
    """Makes the folder for the results before anything takes time.

    Raises:
        ConfigError: If it cannot be made.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f'--out {path}: cannot make this folder: {error.strerror}') from None
    return Path(path)


def make_cases(args: argparse.Namespace) -> list[Case]:
    """Returns the cases that arguments other than --all ask for."""
    sizes = args.sizes or ([(side, side) for side in SCALING_SIDES] if args.scaling else [(224, 224), (800, 1216)])
    common = dict(
        batch=args.batch or 1,
        dtype=args.dtype or 'float32',
        autocast=args.autocast,
        device=args.device,
        arch=args.arch or 'tiny',
        compiled=args.compile,
    )
    return [
        Case(what, mode, height, width, stage=stage, **common)
        for what in args.what or ['backbone']
        for mode in args.mode or ['forward']
        for height, width in sizes
        for stage in ([None] if what == 'backbone' else range(4))
    ]
