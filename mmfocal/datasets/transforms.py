"""Label maps that are checked when they are loaded."""

import cv2
import mmcv
import numpy as np
from mmengine import fileio
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import TRANSFORMS

from mmfocal.datasets.validation import label_maps as label_map_checks
from mmfocal.errors import DataError


@TRANSFORMS.register_module()
class LoadCheckedAnnotations(LoadAnnotations):
    """MMSegmentation's `LoadAnnotations`, which says what is wrong with a label map before a loss meets it.

    Without a label map to load, it does nothing: test images need none, nor does MMSegmentation's inference,
    which takes only `LoadAnnotations` itself out of a test pipeline. Values are checked where the data set
    gives its number of classes, as those of `mmfocal.datasets` do.

    Args:
        backend_args (dict, optional): The file backend's arguments. Default: none, it goes by the path.
        imdecode_backend (str): What decodes label maps, as in `mmcv.imfrombytes`. Default: `pillow`.

    Raises:
        DataError: If a label map cannot be decoded, has several channels or another size than its image, or
            values that are neither a class nor ignored.
    """

    def __init__(self, backend_args=None, imdecode_backend='pillow'):
        super().__init__(backend_args=backend_args, imdecode_backend=imdecode_backend)

    def _load_seg_map(self, results):
        """Loads what `LoadAnnotations` does, which would cast the values to bytes unseen."""
        if 'seg_map_path' not in results:
            return
        name = results['seg_map_path']
        values = self._read(name)
        # In test pipelines the image is resized by now.
        label_map_checks.check_shape(values, name, results.get('ori_shape'))
        label_map, first = results.get('label_map') or {}, int(results['reduce_zero_label'])
        if 'num_classes' in results:
            num_classes = len(label_map) or results['num_classes']  # of which the config may use some
            label_map_checks.check_values(values, name, num_classes, first, results['ignore_index'])
        results['gt_seg_map'] = cv2.LUT(values.astype(np.uint8), _label_of_value(label_map, first))
        results['seg_fields'].append('gt_seg_map')

    def _read(self, name):
        content = fileio.get(name, backend_args=self.backend_args)
        try:
            values = mmcv.imfrombytes(content, flag='unchanged', backend=self.imdecode_backend)
            assert values is not None  # OpenCV's way to fail, now and then
        except Exception as error:  # decoders have many kinds
            raise DataError(f'{name}: not an image, or damaged; write this label map again') from error
        values = values.squeeze() if values.ndim > 2 else values
        return values.astype(np.uint8) if values.dtype == bool else values


def _label_of_value(label_map, first):
    """The label of each value of a byte, (256,), uint8."""
    labels = np.arange(256, dtype=np.uint8)
    if first:
        labels = labels - 1
        labels[[0, 255]] = 255
    renamed = np.arange(256, dtype=np.uint8)
    renamed[list(label_map)] = list(label_map.values())
    return renamed[labels]
