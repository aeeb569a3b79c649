"""`torch.export`'s `.pt2`: a graph that PyTorch runs without this project's code."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mmfocal.inference.export.graph import Graph

SUFFIX = '.pt2'
BACKEND = 'reference'
DYNAMIC = ('batch',)
EXTRA_FILE = 'mmfocal.json'


def write(graph: Graph, image: Tensor, path: Path, metadata: dict[str, str], dynamic: bool) -> None:
    """Writes a graph; see `onnx_format.write`. If `dynamic`, any batch size fits."""
    extra = {EXTRA_FILE: json.dumps(metadata)}
    torch.export.save(export_program(graph, image, dynamic), path, extra_files=extra)


def export_program(graph: Graph, image: Tensor, dynamic: bool) -> torch.export.ExportedProgram:
    """Returns `torch.export`'s program of a graph."""
    shapes = None
    if dynamic:  # an example of one image would be taken for a constant
        image = image if len(image) > 1 else image.repeat(2, 1, 1, 1)
        shapes = ({0: torch.export.Dim('batch')},)
    with torch.no_grad():
        return torch.export.export(graph, (image,), dynamic_shapes=shapes, strict=False)


def read(path: Path) -> tuple[Callable[[Tensor], list[Tensor]], dict[str, str]]:
    """Returns a function from images to outputs, and the metadata."""
    extra = {EXTRA_FILE: ''}
    module = torch.export.load(path, extra_files=extra).module()

    def run(image: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return list(module(image))

    return run, json.loads(extra[EXTRA_FILE])
