"""Counts parameters and FLOPs of configs, beside the paper's figures."""

import argparse
import gc
import inspect
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.analysis.complexity_analysis import parameter_count
from mmengine.config import DictAction
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor, nn

from mmfocal.benchmark.arguments import LEAST_SIDE, at_least
from mmfocal.benchmark.paper.tables import (
    CLASSIFICATION_SIZE,
    DETECTION_SIZE,
    SEGMENTATION_SIZE,
    image_size,
    row_of,
    table_rows,
)
from mmfocal.engine import read_config
from mmfocal.errors import ConfigError, MissingPackageError
from mmfocal.models.flop_handles import register_flop_handles

PROPOSALS, DETECTIONS = 1000, 100
COUNTED = (
    'FLOPs are multiply-adds of one image in the forward of the whole model; the RoI heads of two-stage\n'
    f'detectors take {PROPOSALS} proposals (Sparse R-CNN its own), mask heads {DETECTIONS} detections.\n'
    'Norms and upsampling count as in MMEngine; post-processing, auxiliary heads and the operators listed as\n'
    'not counted do not. Parameters include frozen ones and those of auxiliary heads.'
)
SIZES = (
    f"Image sizes are width × height: the paper's for its configs, else {DETECTION_SIZE[0]}×{DETECTION_SIZE[1]} for "
    f'detectors, {SEGMENTATION_SIZE[0]}×{SEGMENTATION_SIZE[1]} for segmentors and '
    f'{CLASSIFICATION_SIZE[0]}×{CLASSIFICATION_SIZE[1]} for classifiers.\n'
)


@dataclass
class Complexity:
    """Parameters and FLOPs of a model.

    Args:
        width: Image width, in pixels.
        height: Image height, in pixels.
        params: Module → parameters; '' is the whole model, here and below.
        frozen: Frozen parameters of the whole model.
        flops: Module → multiply-adds.
        operators: Operator → multiply-adds of the whole model.
        not_counted: Operator without a formula → number of calls.
    """

    width: int
    height: int
    params: dict[str, int]
    frozen: int
    flops: dict[str, int]
    operators: dict[str, int]
    not_counted: dict[str, int]


def count(model: nn.Module, size: tuple[int, int] = DETECTION_SIZE) -> Complexity:
    """Counts a model of MMDetection, MMSegmentation or MMEngine; the model is unusable afterwards.

    Args:
        model: With MMEngine's forward(inputs, data_samples, mode).
        size: Width and height of the image in pixels.
    """
    model = revert_sync_batchnorm(model).eval()
    width, height = size
    shapes = dict.fromkeys(('ori_shape', 'img_shape', 'pad_shape', 'batch_input_shape'), (height, width))
    samples = [BaseDataElement(metainfo=dict(shapes, scale_factor=(1.0, 1.0)))]
    two_stage = hasattr(model, 'roi_head')
    if two_stage:  # 'tensor' would take all of Cascade's proposals for masks, and ask Sparse R-CNN for ground truth
        _replace_post_processing(model)
    head = getattr(model, 'decode_head', None)
    if head and 'batch_data_samples' in inspect.signature(head.forward).parameters:  # Mask2Former; 'tensor' passes none
        head.forward = partial(head.forward, batch_data_samples=samples)
    forward, mode = model.forward, 'predict' if two_stage else 'tensor'
    alive: list[Tensor] = []  # the tracer drops what no output depends on, e.g. classes of a cascade's early stages

    def keep(*arguments: Any) -> None:
        alive.extend(map(_one_element, _tensors(arguments[-1])))

    hooks = [module.register_forward_hook(keep) for module in model.modules() if module is not model]
    params = dict(parameter_count(model))

    def traced(image: Tensor) -> tuple[Tensor, ...]:
        keep(forward(image, samples, mode=mode))
        return tuple(alive)

    model.forward = traced
    register_flop_handles()
    analyzer = FlopAnalyzer(model, (torch.zeros(1, 3, height, width),))
    analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings('none')
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one operator that hides its products
    try:
        with torch.no_grad():
            flops = analyzer.by_module()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for hook in hooks:
            hook.remove()
    names = [name for name, _ in model.named_modules()]
    return Complexity(
        width=width,
        height=height,
        params={name: params.get(name, 0) for name in names},
        frozen=sum(param.numel() for param in model.parameters() if not param.requires_grad),
        flops={name: int(flops[name]) for name in names},
        operators={_short(name): int(number) for name, number in analyzer.by_operator().most_common()},
        not_counted={_short(name): calls for name, calls in analyzer.unsupported_ops().most_common()},
    )


def _short(operator: str) -> str:
    return operator.split('::')[-1].removeprefix('PythonOp.')


def _replace_post_processing(model: nn.Module) -> None:
    """Makes heads return a fixed number of boxes, whatever their weights."""
    if hasattr(model.rpn_head, 'init_proposal_bboxes'):  # Sparse R-CNN's: RoIAlign refuses boxes of negative width
        nn.init.constant_(model.rpn_head.init_proposal_bboxes.weight, 0.5)
    for module in model.modules():
        if hasattr(module, 'predict_by_feat'):
            number = PROPOSALS if module is model.rpn_head else DETECTIONS
            module.predict_by_feat = lambda *args, number=number, **kwargs: [
                InstanceData(
                    bboxes=torch.tensor([[0.0, 0.0, 32.0, 32.0]]).repeat(number, 1),
                    scores=torch.ones(number),
                    labels=torch.zeros(number, dtype=torch.long),
                )
            ]
    if hasattr(model, 'panoptic_fusion_head'):  # merging masks is post-processing
        model.panoptic_fusion_head.predict = lambda instances, segments: segments


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.dim():  # a tracer's sizes are tensors as well
            yield value
    elif isinstance(value, BaseDataElement):
        yield from _tensors(value.all_values())
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _one_element(tensor: Tensor) -> Tensor:
    """Returns a tensor that depends on another without keeping it in memory, by operators that MMEngine ignores."""
    return tensor[(0,) * tensor.dim()].to(torch.float64, copy=True) if tensor.numel() else tensor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `tools/benchmark.py complexity`."""
    parser.add_argument('config', nargs='*', help='config files')
    parser.add_argument(
        '--table', metavar='N', help="count all rows of the paper's Table 2, 3, 4, 5, 8, 9, 10 or ADE20K instead"
    )
    parser.add_argument(
        '--size',
        nargs=2,
        type=at_least(LEAST_SIDE),
        metavar=('WIDTH', 'HEIGHT'),
        help="image size in pixels (default: the paper's, 1280 800 for detectors, 2048 512 for segmentors, "
        '2560 640 for the one at 640 pixels, 224 224 for classifiers)',
    )
    parser.add_argument('--by-layer', action='store_true', help='also list the modules of each model')
    parser.add_argument('--out', metavar='FILE.json', help='write everything as JSON to this file')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='override settings of the configs, e.g. model.neck.out_channels=128',
    )


def main(args: argparse.Namespace) -> None:
    """Counts, prints, and writes the JSON file.

    Args:
        args: Of `add_arguments`, and `configs`, the folder for --table.

    Raises:
        ConfigError: If arguments do not fit together.
        MissingFileError: If a config does not exist.
    """
    if bool(args.config) == bool(args.table):
        raise ConfigError('complexity: give either config files or --table N')
    size = args.size and tuple(args.size)
    if args.out:
        make_file(args.out)
    rows = table_rows(args.table) if args.table else [row_of(Path(config).stem) for config in args.config]
    paths = [args.configs / f'{row["config"]}.py' for row in rows] if args.table else args.config
    results, reasons = [], {}
    for path, row in zip(paths, rows):
        print(f'counting {path}', file=sys.stderr)
        done = None
        try:
            if not args.table or path.is_file():
                done = count_config(path, size, args.cfg_options)
        except MissingPackageError as error:
            if not args.table:
                raise
            reasons[Path(path).stem] = str(error).removeprefix(f'{path}: ')
        results.append((Path(path).stem, row or {}, done))

    print(
        f'\n{"" if size else SIZES}{COUNTED}\n"paper": arXiv 2107.00641 and, for ADE20K, its authors\' README; '
        '± compares ours with it where the image sizes are equal.\n'
    )
    print('| config | pixels | parameters, M | paper | ± | GFLOPs | paper | ± |\n' + '| --- ' * 8 + '|')
    for result in results:
        print(table_row(*result, 'not counted' if result[0] in reasons else 'no such config'))
    for reason in dict.fromkeys(reasons.values()):
        print(f'\nNot counted, {reason}: {", ".join(name for name in reasons if reasons[name] == reason)}')
    print(''.join(notes(results)), end='')
    if args.by_layer:
        for name, _, done in results:
            if done:
                print(f'\n{name}\n\n{layer_table(done)}')
    if args.out:
        record = [
            dict(config=name, paper=row, **asdict(done)) if done else dict(config=name, paper=row, missing=True)
            for name, row, done in results
        ]
        Path(args.out).write_text(json.dumps(dict(counted=COUNTED, models=record), indent=1) + '\n')


def make_file(path: str) -> None:
    """Makes an empty file for the results before anything takes time.

    Raises:
        ConfigError: If it cannot be made.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
    except OSError as error:
        raise ConfigError(f'--out {path}: cannot write this file: {error.strerror}') from None


def count_config(path: Path, size: tuple[int, int] | None, options: dict) -> Complexity:
    """Builds a config's model with random weights and counts it, at the paper's size by default."""
    gc.collect()  # frees the model before, which is in cycles with its trace
    cfg = read_config(path, options)
    scope = cfg.get('default_scope', 'mmengine')
    init_default_scope(scope)
    torch.manual_seed(0)  # which feature levels a cascade's boxes fall on decides how often RoIAlign is called
    return count(MODELS.build(cfg.model), size or image_size(Path(path).stem, scope))


def table_row(name: str, row: dict, done: Complexity | None, instead: str) -> str:
    """Formats a model's figures, or what is said instead, the paper's, and their difference at equal image sizes."""
    size = (done.width, done.height) if done else row['size']
    cells = [name, '×'.join(map(str, size))]
    for ours, paper, comparable, form in (
        (done and done.params[''] / 1e6, row.get('params_m'), True, '.2f'),
        (
            done and done.flops[''] / 1e9,
            row.get('flops_g'),
            size == row.get('size'),
            '.1f' if done and done.flops[''] >= 1e11 else '.2f',
        ),
    ):
        cells.append(f'{ours:{form}}' if done else instead)
        cells.append(f'{paper:g}' if paper else '–')
        cells.append(f'{ours / paper - 1:+.1%}' if paper and done and comparable else '–')
    return f'| {" | ".join(cells)} |'


def notes(results: list[tuple[str, dict, Complexity | None]]) -> Iterator[str]:
    """Yields the text below the table: what it leaves out."""
    counted = [(name, done) for name, _, done in results if done]
    if any(done.frozen for _, done in counted):
        yield "\nFrozen parameters, M (the paper's figures for ResNets exclude them): "
        yield ', '.join(f'{name} {done.frozen / 1e6:.2f}' for name, done in counted if done.frozen) + '\n'
    if counted:
        yield '\nNot counted (number of calls):\n'
    for name, done in counted:
        yield f'- {name}: {", ".join(f"{op} {calls}" for op, calls in done.not_counted.items()) or "nothing"}\n'


def layer_table(done: Complexity) -> str:
    """Formats a model's figures by module, two levels deep (numbers do not count as levels), and by operator."""
    lines = ['| module | parameters, M | GFLOPs | share |', '| --- | --- | --- | --- |']
    for name in done.params:
        if sum(not part.isdecimal() for part in name.split('.')) <= 2 and (
            done.params[name] >= 5e3 or done.flops[name] >= 5e6
        ):
            lines.append(
                f'| {name or "all"} | {done.params[name] / 1e6:.2f} | {done.flops[name] / 1e9:.2f} '
                f'| {done.flops[name] / done.flops[""]:.1%} |'
            )
    lines += [
        '',
        'GFLOPs by operator: '
        + ', '.join(f'{name} {flops / 1e9:.2f}' for name, flops in done.operators.items() if flops >= 5e6),
    ]
    return '\n'.join(lines)
