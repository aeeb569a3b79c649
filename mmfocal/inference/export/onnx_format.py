"""ONNX, through PyTorch's tracing exporter.

Of PyTorch's two exporters, both of which exist from 2.6 to 2.13, the tracing one (`dynamo=False`) keeps the sizes of
maps symbolic, so that one file serves images of any size, and takes NonMaxSuppression and RoiAlign. The other,
`torch.export`'s, cannot express padding to whole windows for any size.
"""

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mmfocal.inference.export.graph import Graph
from mmfocal.inference.export.packages import import_package
from mmfocal.inference.export.portable_layers import replace_layers

SUFFIX = '.onnx'
BACKEND = 'reference'  # of focal attention: plain operators
DYNAMIC = ('batch', 'height', 'width')
OPSET = 17


def write(graph: Graph, image: Tensor, path: Path, metadata: dict[str, str], dynamic: bool) -> None:
    """Writes a graph.

    Args:
        graph: What to export; it is changed.
        image: Of the size to export for, (B, C, H, W).
        path: The file.
        metadata: Texts to put beside the graph.
        dynamic: Whether the file takes any batch size, height and width.
    """
    onnx = import_package('onnx', 'export')
    replace_layers(graph)
    axes = {'image': dict(zip((0, 2, 3), DYNAMIC))} | {name: {0: 'batch'} for name in graph.output_names}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')  # of each check of a shape, and that the exporter is the older one
        torch.onnx.export(
            graph,
            (image,),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=['image'],
            output_names=list(graph.output_names),
            dynamic_axes=axes if dynamic else None,
        )
    model = onnx.load(path)
    if dynamic:  # those of the trace are of its one size
        for value in model.graph.output:
            for dim in value.type.tensor_type.shape.dim[1:]:
                dim.Clear()
    del model.graph.value_info[:]
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def read(path: Path) -> tuple[Callable[[Tensor], list[Tensor]], dict[str, str]]:
    """Returns a function from images to outputs, and the metadata."""
    onnxruntime = import_package('onnxruntime', 'export')
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])

    def run(image: Tensor) -> list[Tensor]:
        return [torch.from_numpy(one) for one in session.run(None, {'image': image.numpy()})]

    return run, dict(session.get_modelmeta().custom_metadata_map)
