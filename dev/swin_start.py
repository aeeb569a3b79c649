"""Measures what a start from Swin's weights is worth, on a CPU.

`cifar10` pretrains a nano Swin on five classes and fine-tunes each start on the other five; `shapes` takes the backbone
of a nano Swin detector and fine-tunes it for a third of the demo's iterations. Both print a Markdown table.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmfocal.engine import one_sentence_errors
from mmfocal.errors import MissingFileError, UserError
from mmfocal.files import write_atomically
from mmfocal.models import FocalTransformer
from mmfocal.weights.swin import start_from_swin
from mmfocal.weights.swin_downsampling import collect_patches, fit_downsamplings

ROOT = Path(__file__).resolve().parents[1]
ARCH = dict(embed_dims=24, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8))
SWIN = dict(downsample='merge', focal_levels=(1,) * 4, expand_sizes=(0,) * 4, use_shift=True)
FOCAL = dict(downsample='merge', use_shift=True)
CONV = dict(downsample='conv', use_shift=True)
STARTS = {  # name: options of the model, of its start: new_bias, steps of distillation (0: least squares)
    'Swin': (SWIN, {}),
    "Focal 'merge'": (FOCAL, {}),
    "Focal 'merge', new biases −5": (FOCAL, dict(new_bias=-5.0)),
    "Focal 'merge', no shift": (dict(downsample='merge'), {}),
    "Focal 'conv', closed form": (CONV, {}),
    "Focal 'conv', least squares": (CONV, dict(steps=0)),
    "Focal 'conv', distilled": (CONV, dict(steps=500)),
    'Swin from scratch': (SWIN, None),
    "Focal 'merge' from scratch": (FOCAL, None),
    "Focal 'conv' from scratch": (CONV, None),
}
BATCH = 128


class Classifier(nn.Module):
    """A backbone, the mean of its last map, a linear layer."""

    def __init__(self, classes: int, **options):
        super().__init__()
        self.backbone = FocalTransformer(arch=ARCH, out_indices=(3,), drop_path_rate=0.0, **options)
        self.head = nn.Linear(8 * ARCH['embed_dims'], classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images)[0].mean((2, 3)))


class Images:
    """A folder per class, in memory.

    Args:
        folder: Of CIFAR-10 in ImageNet's layout, with `train` and `test`, or of other images of one size.
        split: 'train' or 'test', or the name of another folder.
        classes: Indices of the classes in the order of their names; labels start from 0.
        size: Side to which images are enlarged, in pixels.
        limit: The most images per class.
    """

    def __init__(self, folder: Path, split: str, classes: range, size: int, limit: int | None):
        names = sorted(path.name for path in (folder / split).glob('*') if path.is_dir())
        if len(names) < classes.stop:
            raise MissingFileError(
                f'{folder / split}: {len(names)} folders of classes instead of {classes.stop}; name another folder'
            )
        images, labels = [], []
        for label, index in enumerate(classes):
            for path in sorted((folder / split / names[index]).iterdir())[:limit]:
                images.append(cv2.imread(str(path))[:, :, ::-1])
                labels.append(label)
        self.images = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        self.labels = torch.tensor(labels)
        self.size = size

    def batch(self, index: Tensor, augment: bool = False) -> tuple[Tensor, Tensor]:
        images = self.images[index].float().sub_(120).div_(64)
        if augment:
            images = torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(3), images)
            top, left = torch.randint(0, 9, (2,)).tolist()
            height, width = images.shape[2:]
            images = F.pad(images, (4, 4, 4, 4))[:, :, top : top + height, left : left + width]
        return F.interpolate(images, (self.size, self.size), mode='bilinear'), self.labels[index]

    def batches(self, count: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        for index in torch.arange(len(self.labels))[:count].split(250):
            yield self.batch(index)


def fit(model: nn.Module, data: Images, steps: int, lr: float = 1e-3, batch: int = BATCH) -> None:
    """Trains with AdamW, a tenth of the steps as warm-up, then a cosine."""
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, pct_start=0.1, cycle_momentum=False)
    model.train()
    for _ in range(steps):
        images, labels = data.batch(torch.randint(len(data.labels), (batch,)), augment=True)
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()


@torch.no_grad()
def accuracy(model: nn.Module, data: Images) -> float:
    model.eval()
    right = sum((model(images).argmax(1) == labels).sum().item() for images, labels in data.batches())
    return 100 * right / len(data.labels)


def start(swin: Classifier, options: dict, how: dict | None, data: Images) -> Classifier:
    """Returns a classifier that starts from Swin's weights, or anew if `how` is None."""
    model = Classifier(5, **options)
    if how is None:
        return model
    new_bias, steps = how.get('new_bias'), how.get('steps')
    state_dict = start_from_swin(swin.backbone.state_dict(), model.backbone.state_dict(), new_bias)
    model.backbone.load_state_dict(state_dict)
    model.head.load_state_dict(swin.head.state_dict())
    if steps is not None:
        patches = collect_patches(swin.backbone.eval(), (images for images, _ in shuffled(data).batches(500)), 16)
        errors = fit_downsamplings(model.backbone, patches, steps)
        print('  relative errors:', ', '.join(f'{error.least_squares:.2%} → {error.distilled:.2%}' for error in errors))
    return model


def shuffled(data: Images) -> Images:
    """Returns the same images in an order in which classes are mixed."""
    mixed = object.__new__(Images)
    order = torch.randperm(len(data.labels), generator=torch.Generator().manual_seed(0))
    mixed.images, mixed.labels, mixed.size = data.images[order], data.labels[order], data.size
    return mixed


def cifar10(args: argparse.Namespace) -> None:
    folder = Path(args.folder)
    old, new = range(5), range(5, 10)
    train, test = (
        {name: Images(folder, split, classes, args.size, args.limit) for name, classes in (('old', old), ('new', new))}
        for split in ('train', 'test')
    )
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in STARTS}
    for seed in range(args.seeds):
        torch.manual_seed(seed)
        swin = Classifier(5, **SWIN)
        begin = time.time()
        fit(swin, train['old'], args.pretrain_steps)
        print(f'seed {seed}: Swin {accuracy(swin, test["old"]):.1f} % after {time.time() - begin:.0f} s', flush=True)
        for name, (options, how) in STARTS.items():
            torch.manual_seed(100 + seed)
            model = start(swin, options, how, train['old'])
            before = accuracy(model, test['old'])
            model.head.reset_parameters()
            torch.manual_seed(200 + seed)
            fit(model, train['new'], args.steps)
            results[name].append((before, accuracy(model, test['new'])))
            print(f'seed {seed}: {name}: {results[name][-1][0]:.1f}, {results[name][-1][1]:.1f}', flush=True)
    table = '| start | old classes, before any step | new classes, fine-tuned |\n| --- | --- | --- |\n'
    for name, pairs in results.items():
        cells = ['–' if STARTS[name][1] is None else spread([before for before, _ in pairs])]
        table += f'| {name} | {cells[0]} | {spread([after for _, after in pairs])} |\n'
    finish(args, table, results)


# A Focal backbone for a Swin detector's config, by which both have the same schedule.
FOCAL_CONFIG = """_base_ = 'mmfocal::atss_swin_nano_shapes.py'
model = dict(backbone=dict(
    _delete_=True, type='FocalTransformer', arch=dict(embed_dims=24, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8)),
    downsample='merge', use_shift=True, drop_path_rate=0.0, init_cfg={init_cfg}))
"""


def shapes(args: argparse.Namespace) -> None:
    """Trains detectors with tools/train.py, since that is what a user does."""
    work_dir = Path(args.work_dir).absolute()
    one_epoch = ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'param_scheduler.1.end=1']
    results: dict[str, list[float]] = {}
    for seed in range(args.seeds):
        options = [f'randomness.seed={seed}']
        source = train_detector(work_dir / f'swin_{seed}', 'configs/atss_swin_nano_shapes.py', options)
        results.setdefault('Swin, 3 epochs', []).append(source)
        converted = work_dir / f'swin_{seed}/start.safetensors'
        converted.unlink(missing_ok=True)
        checkpoint = work_dir / f'swin_{seed}/epoch_3.pth'
        command = [sys.executable, '-m', 'mmfocal', 'convert', 'swin', checkpoint, converted, '--downsample', 'merge']
        subprocess.run(list(map(str, command)), cwd=ROOT, check=True)
        for name, init_cfg in (
            ('Focal from that Swin, 1 epoch', dict(type='Pretrained', checkpoint=str(converted))),
            ('Focal from scratch, 1 epoch', None),
        ):
            folder = work_dir / f'focal_{seed}_{"start" if init_cfg else "scratch"}'
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / 'focal.py', FOCAL_CONFIG.format(init_cfg=init_cfg))
            result = train_detector(folder, folder / 'focal.py', [*options, *one_epoch])
            results.setdefault(name, []).append(result)
        result = train_detector(work_dir / f'swin_{seed}_1', 'configs/atss_swin_nano_shapes.py', [*options, *one_epoch])
        results.setdefault('Swin from scratch, 1 epoch', []).append(result)
    table = '| start | box AP |\n| --- | --- |\n'
    table += ''.join(f'| {name} | {spread(values)} |\n' for name, values in results.items())
    finish(args, table, results)


def train_detector(work_dir: Path, config: str | Path, options: list[str]) -> float:
    """Trains a detector of the shapes; returns its box AP in percent."""
    command = [sys.executable, 'tools/train.py', str(config), '--work-dir', str(work_dir), '--cfg-options']
    subprocess.run([*command, *options], cwd=ROOT, check=True)
    logs = sorted(work_dir.glob('*/vis_data/scalars.json'))
    values = [json.loads(line) for line in logs[-1].read_text().splitlines()]
    return 100 * next(value['coco/bbox_mAP'] for value in reversed(values) if 'coco/bbox_mAP' in value)


def spread(values: list[float]) -> str:
    """Returns mean and range."""
    return f'{statistics.mean(values):.1f} ({min(values):.1f}–{max(values):.1f})'


def finish(args: argparse.Namespace, table: str, results: dict) -> None:
    print(table)
    if args.out:
        write_atomically(args.out, json.dumps(dict(settings=vars(args) | dict(main=None), results=results), indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    one = commands.add_parser('cifar10', help='classification of CIFAR-10')
    one.add_argument('folder', help='CIFAR-10 as JPEG files, train/CLASS/ and test/CLASS/')
    one.add_argument('--size', type=int, default=56, help='side to which images are enlarged (default: 56)')
    one.add_argument('--limit', type=int, metavar='N', help='the most images per class and split (default: all)')
    one.add_argument('--pretrain-steps', type=int, default=1000, help=f'of {BATCH} images (default: 1000)')
    one.add_argument('--steps', type=int, default=100, help=f'of fine-tuning, {BATCH} images each (default: 100)')
    one.set_defaults(main=cifar10)
    two = commands.add_parser('shapes', help='detection of the shapes that `make demo` draws')
    two.add_argument('--work-dir', default='work_dirs/swin_start', help='default: work_dirs/swin_start')
    two.set_defaults(main=shapes)
    for command in (one, two):
        command.add_argument('--seeds', type=int, default=3, help='default: 3')
        command.add_argument('--out', metavar='FILE.json', help='write everything as JSON to this file')
    args = parser.parse_args()
    if args.seeds < 1:
        raise UserError('--seeds: at least 1')
    args.main(args)


if __name__ == '__main__':
    with one_sentence_errors():
        main()
