"""The command `mmfocal` and its subcommands, which are also the scripts of tools/."""

import argparse
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import mmfocal

DESCRIPTION = """Focal Transformer for dense prediction: train, test and measure detectors and segmentors.

CONFIG is a file, one of mmfocal's configs by name (atss_focal_tiny_3x), or one of MMDetection's or
MMSegmentation's (mmdet::retinanet/retinanet_r50_fpn_1x_coco.py)."""


@dataclass(frozen=True)
class Command:
    """A subcommand, whose module is imported only if it is called.

    Args:
        help: Its line in the list of commands.
        module: Module with `add_arguments(parser)` and `main(args)`; its docstring is the description.
        commands: Subcommands, instead of `module`.
    """

    help: str
    module: str = ''
    commands: Mapping[str, 'Command'] = field(default_factory=dict)


COMMANDS = {
    'train': Command('train a detector or segmentor', 'mmfocal.cli.train'),
    'test': Command('test a checkpoint', 'mmfocal.cli.test'),
    'predict': Command('predict on images, folders and videos', 'mmfocal.cli.predict'),
    'init-config': Command('write a config for your own data', 'mmfocal.cli.init_config'),
    'check-dataset': Command("list the problems of a config's data sets", 'mmfocal.cli.check_dataset'),
    'visualize': Command(
        'draw what a network sees',
        commands={
            'heatmaps': Command(
                'RepPoints V2: corner heatmaps and foreground map, predicted and annotated',
                'mmfocal.visualization.heatmaps',
            ),
            'attention': Command(
                'what a token of a Focal Transformer attends to, and how far', 'mmfocal.visualization.attention_command'
            ),
            'features': Command('feature maps, and class activation maps', 'mmfocal.visualization.features'),
        },
    ),
    'data-stats': Command(
        "count the boxes, sizes and pixels of a config's data sets", 'mmfocal.visualization.data_stats'
    ),
    'browse': Command('draw augmented training samples with their annotations', 'mmfocal.visualization.browse'),
    'plot-logs': Command('draw the losses, metrics and times of trainings', 'mmfocal.benchmark.logs'),
    'benchmark': Command(
        "measure speed, memory and FLOPs; reproduce the paper's tables",
        commands={
            'speed': Command(
                'time and memory of focal attention and of its baselines', 'mmfocal.benchmark.speed.command'
            ),
            'complexity': Command('parameters and FLOPs of configs', 'mmfocal.benchmark.complexity'),
            'iteration': Command("time of a detector's training iteration", 'mmfocal.benchmark.iteration'),
            'loading': Command('images per second that one core loads for training', 'mmfocal.benchmark.loading'),
            'run': Command("train and test the cells of one of the paper's tables", 'mmfocal.benchmark.paper.run'),
            'collect': Command('collect results from work directories', 'mmfocal.benchmark.paper.collect'),
            'report': Command("write a page of results beside the paper's", 'mmfocal.benchmark.paper.report'),
        },
    ),
    'convert': Command(
        'convert data sets and weights',
        commands={
            'released': Command(
                "a released Focal Transformer checkpoint, PyTorch's or Paddle's", 'mmfocal.cli.convert_released'
            ),
            'swin': Command('a Swin Transformer checkpoint, as a start for Focal', 'mmfocal.cli.convert_swin'),
            'format': Command('a checkpoint between .pth and .safetensors', 'mmfocal.cli.convert_format'),
            'voc': Command('a Pascal VOC data set to COCO', 'mmfocal.cli.convert_data_voc'),
            'yolo': Command('a YOLO data set, boxes or polygons, to COCO', 'mmfocal.cli.convert_data_yolo'),
            'labelme': Command("labelme's files to COCO", 'mmfocal.cli.convert_data_labelme'),
            'cvat': Command("CVAT's XML, of images or videos, to COCO", 'mmfocal.cli.convert_data_cvat'),
        },
    ),
    'export': Command(
        "export a checkpoint's model: ONNX, torch.export, AOTInductor, safetensors", 'mmfocal.cli.export'
    ),
    'hub-folder': Command('lay a folder ready for the Hugging Face Hub', 'mmfocal.cli.hub_folder'),
    'publish': Command('strip a training checkpoint to its weights, for others to use', 'mmfocal.cli.publish'),
    'make-shapes': Command('make the shapes data set, in the layout of COCO 2017', 'mmfocal.cli.make_shapes'),
    'demo': Command('train a small detector on shapes in minutes, on a CPU', 'mmfocal.cli.demo'),
}


def main() -> None:
    """Runs the command line of this process."""
    _run(lambda: parse_args(sys.argv[1:]))


def parse_args(arguments: list[str]) -> argparse.Namespace:
    """Parses a command line, and imports only what that needs.

    Args:
        arguments: Without the program's name.

    Returns:
        With `main`, which takes it.
    """
    parser = _parser('mmfocal', DESCRIPTION)
    parser.add_argument('--version', action='version', version=f'mmfocal {mmfocal.__version__}')
    parser.add_argument('--print-completion', metavar='SHELL', help='print a completion script for bash, zsh or tcsh')
    if any(one.startswith('--print-completion') for one in arguments):
        _add_commands(parser, COMMANDS)
        _print_completion(parser, arguments)
    _add_commands(parser, COMMANDS, arguments)
    return parser.parse_args(arguments)


def run_script(file: str, *path: str) -> None:
    """Runs a command as one of the scripts of tools/.

    Args:
        file: The script.
        path: The command, e.g. 'visualize'.
    """
    command = Command('', commands=COMMANDS)
    for name in path:
        command = command.commands[name]
    parser = _parser(Path(file).name, '')

    def parse() -> argparse.Namespace:
        _fill(parser, command, sys.argv[1:])
        return parser.parse_args()

    _run(parse)


def _run(parse: Callable[[], argparse.Namespace]) -> None:
    """Parses and runs; a command whose module needs a library that is not installed ends like any user's error."""
    missing = None
    try:
        args = parse()
    except ModuleNotFoundError as error:
        missing = error
    from mmfocal.engine import one_sentence_errors

    with one_sentence_errors():
        if missing:
            raise missing
        args.main(args)


def _parser(prog: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def _add_commands(
    parser: argparse.ArgumentParser, commands: Mapping[str, Command], wanted: Iterable[str] | None = None
) -> None:
    """Adds subcommands; only the wanted ones get arguments, since their modules take seconds to import."""
    subparsers = parser.add_subparsers(required=True, metavar='COMMAND')
    for name, command in commands.items():
        child = subparsers.add_parser(
            name, help=command.help, formatter_class=argparse.RawDescriptionHelpFormatter, description=command.help
        )
        if wanted is None or name in wanted:
            _fill(child, command, wanted)


def _fill(parser: argparse.ArgumentParser, command: Command, wanted: Iterable[str] | None) -> None:
    if command.commands:
        parser.description = command.help[:1].upper() + command.help[1:] + '.'
        _add_commands(parser, command.commands, wanted)
        return
    try:
        module = importlib.import_module(command.module)
    except ModuleNotFoundError:
        if wanted is None:  # completion goes without the arguments of a command that cannot run here
            return
        raise
    parser.description = inspect.getdoc(module)
    module.add_arguments(parser)
    parser.set_defaults(main=module.main, configs=mmfocal.CONFIGS)


def _print_completion(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    try:
        import shtab
    except ImportError:
        parser.error('--print-completion: shtab is not installed; pip install shtab')
    completion = argparse.ArgumentParser(prog=parser.prog, add_help=False)
    completion.add_argument('--print-completion', choices=shtab.SUPPORTED_SHELLS, required=True)
    shell = completion.parse_known_args(arguments)[0].print_completion
    print(shtab.complete(parser, shell))
    raise SystemExit
