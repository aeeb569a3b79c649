"""`tools/benchmark.py speed`: time and memory of focal attention against Swin's and against roll + unfold."""

import argparse
import re
from dataclasses import dataclass, field
from pathlib import Path

import torch

from mmfocal.benchmark.speed.apart import Apart
from mmfocal.benchmark.speed.contenders import (
    ARCHS,
    BACKBONES,
    OPERATORS,
    Case,
    absence,
    contenders,
    first_line,
    make_step,
    operator_work,
)
from mmfocal.benchmark.speed.measure import (
    Result,
    alternate,
    as_graph,
    attempt,
    device_rates,
    find_baseline,
    make_timer,
)
from mmfocal.benchmark.speed.memory import cpu_peak, cuda_peak
from mmfocal.benchmark.speed.profiling import where_time_goes
from mmfocal.benchmark.speed.targets import targets
from mmfocal.errors import ConfigError

NAMES = list({**BACKBONES, **OPERATORS})
SWINS = ('swin_mmdet', 'swin_timm', 'swin_timm_fused', 'swin_torchvision')
SCALING_SIDES = (224, 448, 672, 896, 1120, 1344, 1792, 2048)


@dataclass
class Comparison:
    """A case, and what came out of it.

    Args:
        case (Case): What was measured.
        results (List[Result]): One for each contender, those that could not take part included.
        baseline (str, optional): The name of the Swin that the others are compared with.
        rates (Tuple[float, float], optional): For 'attention' the machine's copied bytes and matrix operations a second.
    """

    case: Case
    results: list[Result]
    baseline: str | None = None
    rates: tuple[float, float] | None = None

    def __getitem__(self, name: str) -> Result | None:
        return next((result for result in self.results if result.name == name), None)

    @property
    def least_seconds(self) -> float:
        """The time in which the machine could at best do an attention case: copying or multiplying, whichever takes longer."""
        flops, size = operator_work(self.case)
        return max(size / self.rates[0], flops / self.rates[1])


@dataclass
class Settings:
    """How to measure.

    Args:
        names (List[str]): Contenders.
        repeats (int): Rounds.
        threads (int): Of torch on the CPU.
        profile (bool): Also profile a step of each contender.
        apart (bool): Each contender in a process of its own.
        rates (Dict[str, tuple]): dtype → `device_rates`, measured once.
    """

    names: list[str]
    repeats: int
    threads: int
    profile: bool = False
    apart: bool = False
    rates: dict[str, tuple] = field(default_factory=dict)


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
    parser.add_argument('--sizes', nargs='+', metavar='HEIGHTxWIDTH', help='image sizes (default: 224x224 800x1216)')
    parser.add_argument('--batch', type=int, metavar='N', help='images a batch (default: 1)')
    parser.add_argument(
        '--dtype',
        choices=['float32', 'bfloat16', 'float16'],
        help='half precision: cast weights for inference, mixed precision for training (default: float32)',
    )
    parser.add_argument('--arch', choices=list(ARCHS), help='default: tiny; nano is for trying this command')
    parser.add_argument('--device', choices=['cpu', 'cuda'], help='default: cuda where there is a GPU')
    parser.add_argument('--threads', type=int, metavar='N', help="CPU threads (default: torch's choice; 2 with --all)")
    parser.add_argument('--rivals', nargs='+', metavar='NAME', help=f'contenders (default: all): {", ".join(NAMES)}')
    parser.add_argument('--compile', action='store_true', help='every contender through torch.compile')
    parser.add_argument('--profile', action='store_true', help='also where the time of a step goes, by kind of work')
    parser.add_argument(
        '--apart',
        action='store_true',
        help='on the CPU: each contender in a process of its own, so that they do not share an allocator',
    )
    parser.add_argument(
        '--repeats', type=int, default=10, metavar='N', help='rounds; medians are over them (default: 10)'
    )
    parser.add_argument(
        '--out', default='work_dirs/speed', help='folder for speed.json and speed.png (default: work_dirs/speed)'
    )
    preset = parser.add_mutually_exclusive_group()
    preset.add_argument('--all', action='store_true', help="what the device's targets ask for, each beside its target")
    preset.add_argument(
        '--scaling',
        action='store_true',
        help=f'Focal and Swin from {SCALING_SIDES[0]}² to {SCALING_SIDES[-1]}² pixels, or at --sizes',
    )


def main(args: argparse.Namespace) -> None:
    """Measures, prints, and writes speed.json and speed.png.

    Args:
        args (argparse.Namespace): Of `add_arguments`.

    Raises:
        ConfigError: If an argument cannot work.
    """
    from mmfocal.benchmark.speed import report

    check(args)
    args.device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    threads = args.threads or (2 if args.all else None)
    if threads:
        torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = args.device == 'cuda'
    goals = targets(args.device) if args.all else []
    cases = list(dict.fromkeys(case for goal in goals for case in goal.cases)) or make_cases(args)
    preset_names = (
        ['focal', 'roll_unfold', 'window_sdpa', *SWINS] if args.all else ['focal', *SWINS] if args.scaling else NAMES
    )
    settings = Settings(args.rivals or preset_names, args.repeats, torch.get_num_threads(), args.profile, args.apart)
    for what in {case.what for case in cases}:
        if not set(settings.names) & set(contenders(what)):
            raise ConfigError(
                f'--rivals: none of {", ".join(settings.names)} is for {what}: there are {", ".join(contenders(what))}'
            )
    make_folder(args.out)

    print(report.describe(report.environment(args.device)), flush=True)
    comparisons = []
    for case in cases:
        print(f'\n{case}', flush=True)
        comparisons.append(compare(case, settings))
        print(report.table(comparisons[-1]), flush=True)
        if args.profile:
            print('\n' + report.profile_table(comparisons[-1]), flush=True)
    if goals:
        print('\n' + report.target_table(goals, comparisons))
    if args.scaling:
        print('\n' + report.scaling_table(comparisons))
    report.write(args, comparisons, goals)


def check(args: argparse.Namespace) -> None:
    """Raises ConfigError, in one sentence, if the arguments do not fit."""
    for name in ('batch', 'threads', 'repeats'):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f'--{name} must be at least 1, got {value}')
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise ConfigError('--device cuda needs a GPU, and PyTorch sees none: leave it out to measure on the CPU')
    if args.apart and (args.profile or args.device == 'cuda' or not args.device and torch.cuda.is_available()):
        raise ConfigError('--apart is for the CPU, and without --profile: leave it out, or add --device cpu')
    unknown = next((name for name in args.rivals or [] if name not in NAMES), None)
    if unknown:
        raise ConfigError(f'--rivals: no contender is called {unknown}; there are {", ".join(NAMES)}')
    if args.all:
        given = [name for name in ('what', 'mode', 'sizes', 'batch', 'dtype', 'arch', 'compile') if getattr(args, name)]
        if given:
            raise ConfigError(f'--all chooses by itself what is measured: leave out --{given[0]}')
    if args.scaling and (args.what or len(args.mode or ()) > 1):
        raise ConfigError('--scaling measures backbones in one mode: leave out --what, and give --mode one value')
    args.sizes = [parse_size(size) for size in args.sizes or ()]


def make_folder(path: str) -> None:
    """Makes the folder for results, before anything takes time.

    Raises:
        ConfigError: If it cannot be made.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f'--out: {path} cannot be made a folder: {error.strerror}') from None


def parse_size(text: str) -> tuple[int, int]:
    """'800x1216' → (800, 1216).

    Raises:
        ConfigError: If it is no size.
    """
    match = re.fullmatch(r'([1-9]\d*)[x×]([1-9]\d*)', text)
    if not match:
        raise ConfigError(f'--sizes: {text} is no HEIGHTxWIDTH in pixels, such as 800x1216')
    return int(match[1]), int(match[2])


def make_cases(args: argparse.Namespace) -> list[Case]:
    """The cases that arguments other than --all ask for."""
    sizes = args.sizes or ([(side, side) for side in SCALING_SIDES] if args.scaling else [(224, 224), (800, 1216)])
    common = dict(
        batch=args.batch or 1,
        dtype=args.dtype or 'float32',
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


def compare(case: Case, settings: Settings) -> Comparison:
    """Measures all contenders of one case: warm-up, memory, then alternating rounds.

    Args:
        case (Case): What to measure.
        settings (Settings): How.

    Returns:
        Comparison: Failing contenders are in it with their reason.
    """
    candidates = {name: contender for name, contender in contenders(case.what).items() if name in settings.names}
    comparison = Comparison(case, [Result(name, contender.label) for name, contender in candidates.items()])
    if case.what == 'attention':
        if case.dtype not in settings.rates:
            settings.rates[case.dtype] = device_rates(case.device, case.torch_dtype)
        comparison.rates = settings.rates[case.dtype]
    if case.compiled:
        torch._dynamo.reset()
    steps = {}
    for result in comparison.results:
        reason = absence(candidates[result.name])
        if reason:
            result.status, result.reason = 'absent', reason
            continue
        steps[result.name] = attempt(result, _prepare, result, candidates[result.name], case, settings)
    alternate(comparison.results, steps, settings.repeats, make_timer(case.device))
    for result in comparison.results:
        if settings.profile and result.ok:
            result.kinds = attempt(result, where_time_goes, steps[result.name], case.device == 'cuda')
    for step in steps.values():
        if isinstance(step, Apart):
            step.close()
    steps.clear()
    if case.device == 'cpu' and case.what == 'backbone' and not case.compiled:
        for result in comparison.results:
            if result.ok:
                result.memory, reason = cpu_peak(result.name, case, settings.threads)
                result.reason = reason and f'memory not measured: {reason}'
    baseline = find_baseline(comparison.results, case.device)
    comparison.baseline = baseline and baseline.name
    return comparison


def _prepare(result, contender, case, settings):
    """Builds a contender, warms it up and, on a GPU, measures its memory; returns what runs it once."""
    if settings.apart:
        step = Apart(result.name, case, settings.threads)
        for _ in range(2):
            step()
        return step
    on_gpu = case.device == 'cuda'
    before = torch.cuda.memory_allocated() if on_gpu else 0
    step = make_step(contender, case)
    own = torch.cuda.memory_allocated() - before if on_gpu else 0
    for _ in range(5 if on_gpu else 2):
        step()
    if on_gpu:
        result.memory = cuda_peak(step, own)
    if on_gpu and case.what == 'attention':
        try:
            return as_graph(step)
        except RuntimeError as error:
            result.reason = (
                f'timed with the gaps between its kernels, as it cannot be a CUDA graph: {first_line(error)}'
            )
    return step
