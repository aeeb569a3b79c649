"""AOTInductor's `.pt2`: code compiled for this machine's kind of processor, which Python and C++ load."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mmfocal.errors import ConfigError
from mmfocal.inference.export.graph import Graph
from mmfocal.inference.export.torch_export_format import export_program

SUFFIX = '.pt2'
BACKEND = 'reference'
DYNAMIC = ('batch',)


def write(graph: Graph, image: Tensor, path: Path, metadata: dict[str, str], dynamic: bool) -> None:
    """Compiles a graph; see `onnx_format.write`. If `dynamic`, any batch size fits."""
    import torch._inductor.config

    compiler = torch._inductor.config.cpp.cxx
    if not any(name and shutil.which(name) for name in compiler):
        raise ConfigError('--format aot-inductor: there is no C++ compiler; install g++, or set CXX')
    torch._inductor.aoti_compile_and_package(
        export_program(graph, image, dynamic),
        package_path=str(path),
        inductor_configs={'aot_inductor.metadata': metadata},
    )


def read(path: Path) -> tuple[Callable[[Tensor], list[Tensor]], dict[str, str]]:
    """Returns a function from images to outputs, and the metadata."""
    model = torch._inductor.aoti_load_package(str(path))

    def run(image: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return list(model(image))

    return run, model.get_metadata()
