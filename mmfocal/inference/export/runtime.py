"""Running an exported file."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from mmfocal.errors import CheckpointError, DataError, MissingFileError
from mmfocal.inference.export import aot_inductor_format, onnx_format, torch_export_format
from mmfocal.inference.export.metadata import read_metadata


class ExportedModel:
    """A file of `mmfocal export`, ready to run.

    Args:
        path: `.onnx`, or `.pt2` of either of PyTorch's formats.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If it is of another kind.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise MissingFileError(f'{path}: there is no such file; check the path')
        try:
            self._run, self.metadata = find_format(self.path).read(self.path)
        except (CheckpointError, MissingFileError):
            raise
        except Exception as error:  # of three runtimes, each with errors of its own
            raise CheckpointError(
                f'{path}: it cannot be loaded ({str(error).splitlines()[0]:.80}); export it again'
            ) from error
        if read_metadata(self.metadata, 'outputs') is None:
            raise CheckpointError(f'{path}: it is not of mmfocal export; load it with its own runtime')
        self.input_shape: list[int | str] = read_metadata(self.metadata, 'input_shape')
        self.output_names: tuple[str, ...] = tuple(read_metadata(self.metadata, 'outputs'))

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        """Runs the model.

        Args:
            image: (B, C, H, W), float32.

        Returns:
            The outputs by name.

        Raises:
            DataError: If the file is for images of another size.
        """
        wanted = self.input_shape
        fits = len(image.shape) == 4 and all(isinstance(a, str) or a == b for a, b in zip(wanted, image.shape))
        if not fits:
            raise DataError(
                f'{self.path}: it takes images of shape {_text(wanted)}, got {_text(image.shape)}; resize and pad '
                'them, or export for that size'
            )
        return dict(zip(self.output_names, self._run(image.to(torch.float32))))


def find_format(path: Path) -> ModuleType:
    """Returns the module that reads a file, found by its content.

    Raises:
        CheckpointError: If none does.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith('.so') for name in names):
            return aot_inductor_format
        if any(name.endswith((torch_export_format.EXTRA_FILE, 'serialized_exported_program.json')) for name in names):
            return torch_export_format
    elif path.suffix == onnx_format.SUFFIX:
        return onnx_format
    raise CheckpointError(f'{path}: this is not an exported model; use a file of mmfocal export')


def _text(shape: Sequence[int | str]) -> str:
    return '×'.join(map(str, shape))
