"""Trains ResNet, Swin, Focal and Focal's ablations on CIFAR-10, each with the same small budget, on a CPU.

    python dev/small_scale.py train data/cifar10 results.json    # JPEG files in train/CLASS/ and test/CLASS/
    python dev/small_scale.py plot results.json small_scale.png
    python dev/small_scale.py pretrain atss_focal_nano_shapes data/cifar10 backbone.pth

`train` resumes an unfinished FILE.json run by run and prints a Markdown table. Windows have 2×2 tokens, so that
64 pixels have as many windows in each stage as the paper's 224 pixels have with 7×7 tokens.
"""

import argparse
import io
import json
import statistics
import time
from pathlib import Path

import torch
from mmengine.registry import MODELS as BACKBONES
from mmengine.registry import init_default_scope
from swin_start import Images, accuracy, fit
from torch import Tensor, nn

import mmfocal.registration  # noqa: F401  MMCV's operators, for MMDetection's ResNet
from mmfocal.engine import one_sentence_errors, read_config
from mmfocal.errors import MissingFileError, UserError
from mmfocal.files import write_atomically
from mmfocal.models import FocalTransformer
from mmfocal.weights.writing import check_destination, write_weights

SIZE, CLASSES, BATCH, LR = 64, 10, 32, 1e-3
FOCAL = dict(window_size=2, expand_sizes=(1, 1, 1, 0), focal_windows=(7, 5, 3, 1), drop_path_rate=0.0)
WINDOW = FOCAL | dict(expand_sizes=(0,) * 4, focal_levels=(1,) * 4)
SWIN = WINDOW | dict(downsample='merge', use_shift=True)
MODELS = {  # name: blocks of the third stage, options of FocalTransformer; None: ResNet-18
    'ResNet': (0, None),
    'Swin': (2, SWIN),
    'Focal': (2, FOCAL),
    'Swin, no shift': (2, SWIN | dict(use_shift=False)),
    'Focal, shift': (2, FOCAL | dict(use_shift=True)),
    'Window only': (2, WINDOW),
    'Window and local': (2, FOCAL | dict(focal_levels=(1,) * 4)),
    'Window and global': (2, FOCAL | dict(expand_sizes=(0,) * 4)),
    'Swin, 1-1-1-1': (1, SWIN),
    'Focal, 1-1-1-1': (1, FOCAL),
    'Swin, 1-1-3-1': (3, SWIN),
    'Focal, 1-1-3-1': (3, FOCAL),
}
PANELS = {  # title: names in `MODELS`, and their labels
    'Three backbones': {'ResNet': 'ResNet', 'Swin': 'Swin', 'Focal': 'Focal'},
    'Attention (Figure 5)': {
        'Window only': 'window',
        'Window and local': '+ local',
        'Window and global': '+ global',
        'Focal': 'both',
    },
    'Shift (Table 9)': {
        'Swin, no shift': 'Swin\nno shift',
        'Swin': 'Swin\nshift',
        'Focal': 'Focal\nno shift',
        'Focal, shift': 'Focal\nshift',
    },
    'Depth of stage 3 (Table 10)': {
        'Swin, 1-1-1-1': 'Swin\n1',
        'Swin': 'Swin\n2',
        'Swin, 1-1-3-1': 'Swin\n3',
        'Focal, 1-1-1-1': 'Focal\n1',
        'Focal': 'Focal\n2',
        'Focal, 1-1-3-1': 'Focal\n3',
    },
}


class Classifier(nn.Module):
    """A backbone, the mean of its last map, a linear layer."""

    def __init__(self, name: str):
        super().__init__()
        depth, options = MODELS[name]
        if options is None:
            from mmdet.models import ResNet

            self.backbone = ResNet(18, base_channels=17, out_indices=(3,), norm_eval=False)
            self.backbone.init_weights()
            channels = 8 * 17
        else:
            arch = dict(embed_dims=24, depths=(1, 1, depth, 1), num_heads=(1, 2, 4, 8))
            self.backbone = FocalTransformer(arch=arch, out_indices=(3,), **options)
            channels = 8 * 24
        self.head = nn.Linear(channels, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images)[0].mean((2, 3)))


def train(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    folder, out = Path(args.folder), Path(args.out)
    settings = dict(steps=args.steps, batch=BATCH, size=SIZE, lr=LR, limit=args.limit)
    content = json.loads(out.read_text()) if out.is_file() else dict(settings=settings, runs=[])
    if content['settings'] != settings:
        raise UserError(f'{out}: has runs with other settings, {content["settings"]}; name another file')
    unknown = sorted(set(args.only) - set(MODELS))
    if unknown:
        raise UserError(f'--only: no model {unknown[0]!r}; choose from: {"; ".join(MODELS)}')
    done = {(run['model'], run['seed']) for run in content['runs']}
    pending = [(name, seed) for name in args.only or MODELS for seed in range(args.seeds) if (name, seed) not in done]
    if pending:
        train_images, test_images = (
            Images(folder, split, range(CLASSES), SIZE, args.limit) for split in ('train', 'test')
        )
    for name, seed in pending:
        torch.manual_seed(seed)
        model = Classifier(name)
        begin = time.process_time()
        fit(model, train_images, args.steps, LR, BATCH)
        seconds = time.process_time() - begin
        parameters = sum(parameter.numel() for parameter in model.parameters())
        run = dict(model=name, seed=seed, accuracy=accuracy(model, test_images), parameters=parameters, seconds=seconds)
        content['runs'].append(run)
        write_atomically(out, json.dumps(content, indent=1))
        print(f'{name}, seed {seed}: {run["accuracy"]:.2f} % after {seconds:.0f} s of CPU time', flush=True)
    print(table(content['runs']))


def pretrain(args: argparse.Namespace) -> None:
    """Trains the backbone of a detector's config to tell images of folders apart, and writes its weights."""
    check_destination(args.out)
    torch.set_num_threads(1)
    cfg = read_config(args.config)
    init_default_scope(cfg.default_scope)
    folder = Path(args.folder)
    test = next((split for split in ('test', 'val') if (folder / split).is_dir()), 'test')
    count = sum(path.is_dir() for path in (folder / test).glob('*'))
    if count < 2:
        raise MissingFileError(f'{folder}: has no folders train/CLASS/ and test/CLASS/ or val/CLASS/')
    torch.manual_seed(args.seed)
    model = Pretraining(cfg.model.backbone, count, cfg.model.neck.in_channels[-1])
    begin = time.process_time()
    fit(model, Images(folder, 'train', range(count), args.size, None), args.steps, LR, BATCH)
    seconds = time.process_time() - begin
    percent = accuracy(model, Images(folder, test, range(count), args.size, None))
    state_dict = {f'backbone.{name}': value for name, value in model.backbone.state_dict().items()}
    source = f'{folder.name}, {args.steps} steps of {BATCH} images of {args.size} px, seed {args.seed}'
    write_weights(args.out, state_dict, dict(source=source))
    print(f'{args.out}: {percent:.1f} % of {count} classes after {seconds:.0f} s of CPU time')


class Pretraining(nn.Module):
    """A backbone of a config, the mean of its last map, a linear layer."""

    def __init__(self, backbone: dict, classes: int, channels: int):
        super().__init__()
        self.backbone = BACKBONES.build(backbone)
        self.backbone.init_weights()
        self.head = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images)[-1].mean((2, 3)))


def group(runs: list[dict]) -> dict[str, list[dict]]:
    """Returns the runs of each model, in the order of `MODELS`."""
    groups = {name: [run for run in runs if run['model'] == name] for name in MODELS}
    return {name: members for name, members in groups.items() if members}


def table(runs: list[dict]) -> str:
    """Returns a Markdown table: a row per model, a column per seed."""
    seeds = sorted({run['seed'] for run in runs})
    header = ['Model', 'Parameters, M', 'Seconds', *(f'Seed {seed}' for seed in seeds), 'Mean']
    rows = [header, ['---'] * len(header)]
    for name, members in group(runs).items():
        by_seed = {run['seed']: run['accuracy'] for run in members}
        cells = [f'{by_seed[seed]:.1f}' if seed in by_seed else '–' for seed in seeds]
        seconds = statistics.mean(run['seconds'] for run in members)
        mean = f'{statistics.mean(by_seed.values()):.1f}'
        rows.append([name, f'{members[0]["parameters"] / 1e6:.2f}', f'{seconds:.0f}', *cells, mean])
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def plot(args: argparse.Namespace) -> None:
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    path = Path(args.results)
    if not path.is_file():
        raise MissingFileError(f'{path}: no such file; `train` writes it')
    groups = group(json.loads(path.read_text())['runs'])
    panels = {title: panel for title, panel in PANELS.items() if set(panel) <= set(groups)}
    if not panels:
        raise UserError(f'{path}: no comparison is complete; resume `train`')
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(1 + 0.7 * sum(map(len, panels.values())), 3.2),
        sharey=True,
        squeeze=False,
        width_ratios=[len(panel) for panel in panels.values()],
        layout='constrained',
    )
    for axis, (title, panel) in zip(axes[0], panels.items()):
        for x, name in enumerate(panel):
            values = [run['accuracy'] for run in groups[name]]
            axis.plot([x] * len(values), values, 'o', color='C0', alpha=0.6, markersize=5)
            axis.plot([x - 0.3, x + 0.3], [statistics.mean(values)] * 2, color='C0')
        axis.set_xticks(range(len(panel)), panel.values(), fontsize=8)
        axis.set_xlim(-0.6, len(panel) - 0.4)
        axis.set_title(title, fontsize=9)
        axis.grid(axis='y', alpha=0.3)
    axes[0, 0].set_ylabel('Accuracy, %')
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=100)
    write_atomically(args.out, buffer.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    one = commands.add_parser('train', help='trains and tests what FILE.json does not have yet')
    one.add_argument('folder', help='CIFAR-10 as JPEG files, train/CLASS/ and test/CLASS/')
    one.add_argument('out', metavar='FILE.json', help='results')
    one.add_argument('--steps', type=int, default=600, help=f'of {BATCH} images (default: 600)')
    one.add_argument('--seeds', type=int, default=2, help='default: 2')
    one.add_argument('--limit', type=int, metavar='N', help='the most images per class and split (default: all)')
    one.add_argument('--only', nargs='+', default=[], metavar='MODEL', help='names of the table (default: all)')
    one.set_defaults(main=train)
    two = commands.add_parser('plot', help='plots the comparisons that are complete')
    two.add_argument('results', metavar='FILE.json', help='of `train`')
    two.add_argument('out', metavar='FILE.png')
    two.set_defaults(main=plot)
    three = commands.add_parser('pretrain', help="trains the backbone of a detector's config as a classifier")
    three.add_argument('config', help='config of the detector')
    three.add_argument('folder', help='images of one size, train/CLASS/ and test/CLASS/ or val/CLASS/')
    three.add_argument('out', metavar='FILE.pth', help='weights, also FILE.safetensors')
    three.add_argument('--size', type=int, default=56, help='side to which images are resized (default: 56)')
    three.add_argument('--steps', type=int, default=800, help=f'of {BATCH} images (default: 800)')
    three.add_argument('--seed', type=int, default=0, help='default: 0')
    three.set_defaults(main=pretrain)
    args = parser.parse_args()
    args.main(args)


if __name__ == '__main__':
    with one_sentence_errors():
        main()
