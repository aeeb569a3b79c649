"""Converts a Swin Transformer checkpoint to a start for mmfocal's backbone.

SRC may have the names of the official release, MMDetection, MMSegmentation, MMPretrain, torchvision, timm or
Transformers. Between stages Swin merges patches. --downsample merge keeps that; --downsample conv approximates it by
the paper's convolution, in closed form, or better with --images: by least squares and distillation on the images of a
folder, some hundred of which take minutes on a CPU.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SUFFIXES = {'.jpg', '.jpeg', '.png', '.bmp', '.webp'}
BATCH, SIDE = 8, 224
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # RGB, as Swin's training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument('src', help='Swin checkpoint: path or URL')
    parser.add_argument('dst', help='file to write: .pth or .safetensors')
    parser.add_argument(
        '--downsample', choices=['conv', 'merge'], default='conv', help="of the model; default: conv, the paper's"
    )
    parser.add_argument('--images', metavar='DIR', help='folder of images for --downsample conv, searched recursively')
    parser.add_argument('--num-images', type=int, default=300, metavar='N', help='images to use; default: 300')
    parser.add_argument('--steps', type=int, default=500, metavar='N', help='of distillation per stage; default: 500')
    parser.add_argument(
        '--new-bias',
        type=float,
        metavar='B',
        help="initial bias of keys that Swin lacks; default: the ring continues the window's table, pooled ones are 0",
    )


def main(args: argparse.Namespace) -> None:
    """Converts the checkpoint, and prints the error of each downsampling.

    Args:
        args: Of `add_arguments`.

    Raises:
        ConfigError: If the file to write exists already, or arguments contradict each other.
        CheckpointError: If the checkpoint cannot be read, or is of another model.
        DataError: If the folder has no image, or one cannot be decoded.
    """
    from mmfocal.errors import CheckpointError, ConfigError
    from mmfocal.models import FocalTransformer
    from mmfocal.weights import load_checkpoint
    from mmfocal.weights.backbone import backbone_weights
    from mmfocal.weights.swin import start_from_swin
    from mmfocal.weights.writing import check_destination, describe_architecture, find_arch, write_weights

    check_destination(args.dst)
    if args.images and args.downsample == 'merge':
        raise ConfigError('--images: --downsample merge is exact and needs none; drop one of the two')
    images = _find_images(args.images, args.num_images) if args.images else []
    source = backbone_weights(load_checkpoint(args.src), args.src)
    if source.origin != 'swin':
        raise CheckpointError(f'{args.src}: this is {source.kind}, no Swin Transformer; use mmfocal convert released')
    swin = source.state_dict
    options = dict(
        arch=find_arch(swin),
        window_size=(round(swin['stages.0.blocks.0.attn.window_bias_table'].shape[1] ** 0.5) + 1) // 2,
        qkv_bias='stages.0.blocks.0.attn.qkv.bias' in swin,
        drop_path_rate=0.0,
    )
    backbone = FocalTransformer(**options, downsample=args.downsample)
    started = start_from_swin(swin, backbone.state_dict(), args.new_bias)
    backbone.load_state_dict(started, strict=False)

    how = 'merging kept'
    if args.downsample == 'conv' and images:
        errors = _fit(backbone, swin, options, images, args.steps)
        how = f'convolutions fitted on {len(images)} images, relative errors {errors}'
    elif args.downsample == 'conv':
        how = 'convolutions in closed form'
        print('Without --images the convolutions between stages are a rough closed form.')
    # norms of other outputs are not in the file: they stay as initialised
    state_dict = {name: value for name, value in backbone.state_dict().items() if name in started}
    meta = dict(
        architecture=describe_architecture(state_dict),
        source=str(args.src),
        conversion=f'from {source.kind}: {how}; new_bias={args.new_bias}',
    )
    write_weights(args.dst, state_dict, meta)
    print(f'{args.dst}: {len(state_dict)} tensors, {len(swin)} of them from {source.kind}')


def _fit(backbone: Any, swin: Any, options: dict[str, Any], images: list[Path], steps: int) -> str:
    """Fits the backbone's downsamplings, prints their errors, and returns those that remain, in words."""
    from mmfocal.models import FocalTransformer
    from mmfocal.weights.swin_downsampling import collect_patches, fit_downsamplings

    teacher = FocalTransformer(
        **options,
        downsample='merge',
        focal_levels=(1, 1, 1, 1),
        expand_sizes=(0, 0, 0, 0),
        use_shift=True,
        out_indices=(3,),
    )
    teacher.load_state_dict(swin, strict=False)
    errors = fit_downsamplings(backbone, collect_patches(teacher.eval(), _batches(images)), steps)
    print('| relative error after stage | closed form | least squares | distilled |\n| --- | --- | --- | --- |')
    for stage, error in enumerate(errors, 1):
        print(f'| {stage} | {error.closed_form:.2%} | {error.least_squares:.2%} | {error.distilled:.2%} |')
    return ', '.join(f'{error.distilled:.2%}' for error in errors)


def _find_images(folder: str, count: int) -> list[Path]:
    """Returns `count` images of a folder, evenly spread over its sorted files."""
    from mmfocal.errors import DataError, MissingFileError

    if not Path(folder).is_dir():
        raise MissingFileError(f'{folder}: there is no such folder; check --images')
    found = sorted(path for path in Path(folder).rglob('*') if path.suffix.lower() in SUFFIXES)
    if not found:
        raise DataError(f'{folder}: no image in it ({", ".join(sorted(SUFFIXES))}); name another folder')
    return found[:: max(1, len(found) // max(1, count))][:count]


def _batches(paths: list[Path]) -> Iterator[Any]:
    """Yields batches as in Swin's evaluation: the shorter side 256, the centre's 224×224, normalised."""
    import cv2
    import numpy as np
    import torch

    from mmfocal.errors import DataError

    for start in range(0, len(paths), BATCH):
        batch = []
        for path in paths[start : start + BATCH]:
            image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) if path.stat().st_size else None
            if image is None:
                raise DataError(f'{path}: the image cannot be decoded; remove it or replace it')
            height, width = image.shape[:2]
            scale = 256 / min(height, width)
            size = (max(SIDE, round(width * scale)), max(SIDE, round(height * scale)))
            image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
            top, left = (image.shape[0] - SIDE) // 2, (image.shape[1] - SIDE) // 2
            image = image[top : top + SIDE, left : left + SIDE, ::-1].astype(np.float32)
            batch.append((image - MEAN) / STD)
        yield torch.from_numpy(np.stack(batch)).float().permute(0, 3, 1, 2)
