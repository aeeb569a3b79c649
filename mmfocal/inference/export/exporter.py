"""Export of a model to a file, which is run at once and compared with PyTorch before it takes its place."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

import mmfocal
from mmfocal.errors import ConfigError, SavingError
from mmfocal.inference.export import aot_inductor_format, onnx_format, torch_export_format
from mmfocal.inference.export.comparison import compare, count_detections, make_image
from mmfocal.inference.export.graph import Graph, build_graph
from mmfocal.inference.export.metadata import default_size, make_metadata, read_preprocessing
from mmfocal.inference.export.runtime import ExportedModel
from mmfocal.models.focal_attention import FocalAttention

FORMATS = {'onnx': onnx_format, 'torch-export': torch_export_format, 'aot-inductor': aot_inductor_format}
STRIDE = 32
TIMED_RUNS = 10


@dataclass
class Report:
    """What an export found.

    Args:
        differences: Of each output, the largest over all images, and the limit.
        shapes: Of the images that were compared.
        detections: How many PyTorch found on them; None if the outputs are no detections.
        seconds: Medians per batch of the exported model and of PyTorch, if they were timed.
    """

    differences: dict[str, tuple[float, float]]
    shapes: list[tuple[int, ...]]
    detections: int | None = None
    seconds: tuple[float, float] | None = None


def export_model(
    model: nn.Module,
    cfg: Config,
    path: str | Path,
    *,
    format: str = 'onnx',
    part: str = 'model',
    size: tuple[int, int] | None = None,
    batch_size: int = 1,
    dynamic: bool = False,
    half: bool = False,
    with_nms: bool = False,
    label_map: bool = False,
    with_preprocessing: bool = False,
    timed: bool = False,
    source: str = '',
) -> Report:
    """Exports a model, runs the file on random images and compares it with PyTorch.

    Args:
        model: Of `load_model`, on the CPU.
        cfg: Its config.
        path: The file to write.
        format: One of `FORMATS`.
        part: 'model', or 'backbone'.
        size: Height and width of the images. Default: the config's.
        batch_size: Images per batch.
        dynamic: Whether the file takes any batch size, and of ONNX any height and width.
        half: Compute in float16 (ONNX).
        with_nms: End with non-maximum suppression.
        label_map: End with the class of each pixel.
        with_preprocessing: Begin with normalisation.
        timed: Time the file and PyTorch.
        source: Name of the checkpoint, for the metadata.

    Raises:
        ConfigError: If the model cannot be exported so.
        SavingError: If the file's outputs differ from PyTorch's; it is not left behind.
    """
    path, target = Path(path), FORMATS[format]
    if half and format != 'onnx':
        raise ConfigError(f'--fp16: only ONNX files are written in float16, not {format}; leave --fp16 out')
    if format != 'onnx' and part == 'model' and hasattr(model, 'roi_head'):
        raise ConfigError(f'--format {format}: {type(model).__name__} is exported as onnx only; or use --part backbone')
    if format != 'onnx' and dynamic and with_nms:
        raise ConfigError(f'--dynamic: NMS in {format} is for one batch size; leave out one of the two')
    height, width = size or default_size(model, cfg)
    if min(height, width, batch_size) < 1:
        raise ConfigError(f'--size and --batch-size must be positive, got {height} {width} and {batch_size}')
    any_size = dynamic and 'height' in target.DYNAMIC
    if any_size and any(isinstance(module, FocalAttention) and module.shift for module in model.modules()):
        raise ConfigError('--dynamic: shifted windows depend on the size of the map; pass --size HEIGHT WIDTH instead')
    preprocessing = read_preprocessing(model, cfg)
    options: dict[str, Any] = dict(part=part, with_nms=with_nms, label_map=label_map)
    options['preprocessing'] = preprocessing if with_preprocessing else None
    graph = build_graph(model, **options, half=half, backend=target.BACKEND)
    shape = (batch_size, len(preprocessing['mean']), height, width)
    metadata = make_metadata(
        version=mmfocal.__version__,
        source=source,
        format=format,
        part=part,
        model=type(model).__name__,
        config=Path(cfg.filename).stem if cfg.filename else '',
        classes=list((getattr(model, 'dataset_meta', None) or {}).get('classes') or []),
        input_shape=[
            'batch' if dynamic else batch_size,
            shape[1],
            'height' if any_size else height,
            'width' if any_size else width,
        ],
        outputs=list(graph.output_names),
        fp16=half,
        preprocessing=preprocessing,
        preprocessing_in_graph=with_preprocessing,
    )
    shapes = [shape, shape]
    if dynamic:
        shapes[1] = (batch_size + 1, *shape[1:])
    if any_size:
        shapes += [(1, shape[1], height + STRIDE, width + 3 * STRIDE), (1, shape[1], width, height)]
    reference = build_graph(model, **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.export', dir=path.parent) as folder:
        partial = Path(folder, path.name)
        target.write(graph, make_image(shape, 0, with_preprocessing), partial, metadata, dynamic)
        exported = ExportedModel(partial)
        report = _verify(exported, reference, shapes, half, with_preprocessing, path)
        if timed:
            report.seconds = _time(exported, reference, make_image(shape, 1, with_preprocessing))
        os.replace(partial, path)
    return report


def _verify(
    exported: ExportedModel, reference: Graph, shapes: list[tuple[int, ...]], half: bool, raw: bool, path: Path
) -> Report:
    """Compares an exported model with PyTorch on random images, the first of which is not that of the export."""
    report = Report({}, shapes)
    for seed, shape in enumerate(shapes, 1):
        image = make_image(shape, seed, raw)
        with torch.no_grad():
            expected = reference(image)
        found = exported(image)
        names = reference.output_names
        for name, (value, limit) in compare(names, list(found.values()), expected, half).items():
            report.differences[name] = (max(value, report.differences.get(name, (0.0, 0))[0]), limit)
            if not value <= limit:
                raise SavingError(
                    f'{path}: {name} differs from PyTorch by {value:.2g} on images of {_text(shape)}, more than '
                    f'{limit:g}; nothing was written'
                )
        count = count_detections(names, list(expected))
        if count is not None:
            report.detections = count + (report.detections or 0)
    return report


def _time(exported: ExportedModel, reference: Graph, image: Tensor) -> tuple[float, float]:
    """Returns the median seconds per batch of both, run in turn."""
    seconds: tuple[list[float], list[float]] = ([], [])
    with torch.no_grad():
        for _ in range(TIMED_RUNS + 1):
            for run, times in zip((exported, reference), seconds):
                times.append(_seconds(run, image))
    return statistics.median(seconds[0][1:]), statistics.median(seconds[1][1:])


def _seconds(run: Callable[[Tensor], Any], image: Tensor) -> float:
    start = time.perf_counter()
    run(image)
    return time.perf_counter() - start


def _text(shape: tuple[int, ...]) -> str:
    return '×'.join(map(str, shape))
