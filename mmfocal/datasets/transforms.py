"""Loading of label maps that validates their values."""

import cv2
import mmcv
import numpy as np
from mmengine import fileio
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import TRANSFORMS

from mmfocal.datasets.validation.issues import raise_first_error
from mmfocal.datasets.validation.label_maps import find_value_issues
from mmfocal.errors import DataError


@TRANSFORMS.register_module()
class LoadCheckedAnnotations(LoadAnnotations):
    """MMSegmentation's `LoadAnnotations`, which reports what is wrong with a label map before a loss sees it.

    Without a label map to load, it does nothing: test images need none, nor does MMSegmentation's inference, which
    removes only `LoadAnnotations` itself from a test pipeline. Values are validated if the data set gives its number of
    classes, as those of `mmfocal.datasets` do.

    Args:
        backend_args: The file backend's arguments. Default: chosen by the path.
        imdecode_backend: What decodes label maps, as in `mmcv.imfrombytes`.

    Raises:
        DataError: If a label map cannot be decoded, has several channels or another size than its image, or values that
            are neither a class nor ignored.
    """

    def __init__(self, backend_args: dict | None = None, imdecode_backend: str = 'pillow'):
        super().__init__(backend_args=backend_args, imdecode_backend=imdecode_backend)

    def _load_seg_map(self, results: dict) -> None:
        """Loads what `LoadAnnotations` does, which would cast the values to bytes unchecked."""
        if 'seg_map_path' not in results:
            return
        name = results['seg_map_path']
        values = self._read(name)
        label_map, first = results.get('label_map') or {}, int(results['reduce_zero_label'])
        num_classes = None
        if 'num_classes' in results:
            num_classes = len(label_map) or results['num_classes']  # the config may use some of the classes
        # In test pipelines the image is resized by now.
        shape, image_path = results.get('ori_shape'), results.get('img_path')
        ignore_index = results.get('ignore_index', 255)
        raise_first_error(find_value_issues(values, name, num_classes, first, ignore_index, shape, image_path))
        results['gt_seg_map'] = cv2.LUT(values.astype(np.uint8), _labels_by_value(label_map, first))
        results['seg_fields'].append('gt_seg_map')

    def _read(self, name: str) -> np.ndarray:
        content = fileio.get(name, backend_args=self.backend_args)
        try:
            values = mmcv.imfrombytes(content, flag='unchanged', backend=self.imdecode_backend)
        except Exception as error:  # decoders raise many types
            raise DataError(f'{name}: not an image, or damaged; write this label map again') from error
        if values is None:  # OpenCV's way to fail
            raise DataError(f'{name}: not an image, or damaged; write this label map again')
        values = values.squeeze() if values.ndim > 2 else values
        return values.astype(np.uint8) if values.dtype == bool else values


def _labels_by_value(label_map: dict[int, int], first: int) -> np.ndarray:
    """Returns the label of each value of a byte, (256,), uint8."""
    labels = np.arange(256, dtype=np.uint8)
    if first:
        labels = labels - 1
        labels[[0, 255]] = 255
    renamed = np.arange(256, dtype=np.uint8)
    renamed[list(label_map)] = list(label_map.values())
    return renamed[labels]
