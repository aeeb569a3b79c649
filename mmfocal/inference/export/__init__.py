"""Exporting a checkpoint's model: ONNX, `torch.export`, AOTInductor, safetensors."""

from mmfocal.inference.export import safetensors_format
from mmfocal.inference.export.exporter import FORMATS, export_model
from mmfocal.inference.export.runtime import ExportedModel

__all__ = ['FORMATS', 'ExportedModel', 'export_model', 'safetensors_format']
