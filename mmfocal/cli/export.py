"""Exports a checkpoint's model, runs the file at once and compares it with PyTorch.

  onnx          for onnxruntime, OpenVINO, TensorRT; with --dynamic for images of any size
  torch-export  PyTorch's own graph (.pt2), which runs without mmfocal
  aot-inductor  compiled for this kind of processor (.pt2), for Python and C++
  safetensors   weights, config, classes and metrics in one file, which mmfocal reads like a checkpoint

Input is 'image' (B, 3, H, W) in float32, normalised as the metadata say. Outputs: of a detector 'boxes' (B, N, 4),
x1 y1 x2 y2 in pixels, and 'scores' (B, N, classes) of all priors, or with --with-nms the best boxes with 'scores' and
'labels' (-1: no box); of a segmentor 'logits' (B, classes, H, W), of a classifier (B, classes); of a backbone
'stage1', 'stage2', …

A difference from PyTorch above 1e-4 of the largest value (with --fp16: 3e-2) is an error, and no file is written.
"""

import argparse

OPTIONS = ('size', 'dynamic', 'fp16', 'with_nms', 'label_map', 'with_preprocessing', 'time')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument('checkpoint', help='checkpoint: path or URL, in any format that mmfocal reads')
    parser.add_argument(
        '--format',
        choices=['onnx', 'torch-export', 'aot-inductor', 'safetensors'],
        default='onnx',
        help='format of the file; default: onnx',
    )
    parser.add_argument('--config', help="config: a file or a name; default: the checkpoint's own")
    parser.add_argument('--out', metavar='FILE', help="file to write; default: the checkpoint's name in this folder")
    parser.add_argument('--part', choices=['model', 'backbone'], default='model', help='what to export; default: model')
    parser.add_argument(
        '--size', nargs=2, type=int, metavar=('H', 'W'), help="height and width of the images; default: the config's"
    )
    parser.add_argument('--dynamic', action='store_true', help='take any batch size; of onnx also any height and width')
    parser.add_argument('--batch-size', type=int, default=1, metavar='B', help='images per batch; default: 1')
    parser.add_argument('--fp16', action='store_true', help='compute in float16 (onnx)')
    parser.add_argument('--with-nms', action='store_true', help='detectors: end with non-maximum suppression')
    parser.add_argument('--label-map', action='store_true', help='segmentors: end with the class of each pixel')
    parser.add_argument(
        '--with-preprocessing', action='store_true', help='take images as OpenCV loads them: BGR, 0 to 255'
    )
    parser.add_argument('--time', action='store_true', help='time the file and PyTorch on this machine')


def main(args: argparse.Namespace) -> None:
    """Exports, and prints the differences.

    Args:
        args: Of `add_arguments`.

    Raises:
        ConfigError: If the file exists already, or the model cannot be exported so.
        CheckpointError: If the checkpoint cannot be read, or does not fit its config.
        SavingError: If the file differs from PyTorch.
    """
    from pathlib import Path

    import torch

    from mmfocal.errors import ConfigError
    from mmfocal.inference import load_model
    from mmfocal.inference.export import FORMATS, export_model, safetensors_format

    suffix = (FORMATS | {'safetensors': safetensors_format})[args.format].SUFFIX
    out = Path(args.out or Path(args.checkpoint).with_suffix(suffix).name)
    if out.suffix != suffix:
        raise ConfigError(f'--out {out}: files of {args.format} end with {suffix}; choose such a name')
    if out.exists():
        raise ConfigError(f'{out}: the file exists already; choose another name with --out, or remove it')
    if args.format == 'safetensors':
        if any(getattr(args, name) for name in OPTIONS) or args.part != 'model' or args.batch_size != 1:
            raise ConfigError('--format safetensors: it takes only --config and --out; leave the others out')
        *_, meta = safetensors_format.write_checkpoint(args.checkpoint, args.config, out)
        classes, metrics = len(meta['dataset_meta']['classes']), len(meta['metrics'])
        print(f'{out}: {out.stat().st_size / 2**20:.1f} MiB, config, {classes} classes, {metrics} metrics; loads equal')
        return
    model, cfg = load_model(args.checkpoint, args.config, device='cpu')
    report = export_model(
        model,
        cfg,
        out,
        format=args.format,
        part=args.part,
        size=args.size,
        batch_size=args.batch_size,
        dynamic=args.dynamic,
        half=args.fp16,
        with_nms=args.with_nms,
        label_map=args.label_map,
        with_preprocessing=args.with_preprocessing,
        timed=args.time,
        source=Path(args.checkpoint).name,
    )
    sizes = ', '.join(dict.fromkeys('×'.join(map(str, shape)) for shape in report.shapes))
    print(f'{out}: {type(model).__name__}, {out.stat().st_size / 2**20:.1f} MiB; compared with PyTorch on {sizes}')
    for name, (difference, limit) in report.differences.items():
        if name == 'detections':
            print(f'  detections: {report.detections}, {difference:.2%} without counterpart (limit {limit:.0%})')
        else:
            print(f'  {name}: difference {difference:.1e} (limit {limit:g})')
    if report.seconds:
        exported, pytorch = report.seconds
        print(
            f'  {exported * 1000:.1f} ms per batch, PyTorch {pytorch * 1000:.1f} ms; medians of runs in turn, '
            f'{torch.get_num_threads()} threads'
        )
