"""COCO-format data that is checked before training starts."""
from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmdet.registry import DATASETS

from mmfocal.datasets import coco_checks
from mmfocal.errors import DataError


@DATASETS.register_module()
class CheckedCocoDataset(CocoDataset):
    """MMDetection's `CocoDataset`, with one clear sentence for each fault of its files.

    The annotations are parsed once, as there. Nothing is looked for in folders that a remote backend serves
    (`backend_args`, URLs).

    Args:
        *args, **kwargs: As of `CocoDataset`.

    Raises:
        MissingFileError: If the data root, the annotation file or an image that the data set uses is absent.
        DataError: If the annotation file is not JSON in COCO format, has unknown ids or boxes that are not
            numbers, or `filter_cfg` leaves no image.
        ConfigError: If `metainfo.classes` are not categories of the file, in its order.
    """

    def load_data_list(self):
        """Loads the annotations as `CocoDataset` does, after a look whether their file is there."""
        if _is_local(self.ann_file, self.backend_args):
            coco_checks.check_annotation_file(self.ann_file, self.data_root)
        return super().load_data_list()

    def COCOAPI(self, local_path):
        """Reads the annotations: what `CocoDataset` calls, here with checks between parsing and indexing."""
        annotations = coco_checks.read_annotations(local_path, self.ann_file)
        coco_checks.check_annotations(annotations, self.ann_file, self.test_mode)
        coco_checks.check_classes(self.metainfo['classes'], annotations, self.ann_file)
        coco = COCO()
        coco.dataset = annotations
        coco.createIndex()
        coco.img_ann_map, coco.cat_img_map = coco.imgToAnns, coco.catToImgs
        return coco

    def filter_data(self):
        """Filters as `CocoDataset` does, and checks that the images that are left, and used, are there."""
        self.data_list = super().filter_data()
        if not self.data_list:
            raise DataError(f'{self.ann_file}: filter_cfg={self.filter_cfg} leaves none of its images; '
                            'loosen it, or correct metainfo.classes')
        used = self.data_list if self._indices is None else self._get_unserialized_subset(self._indices)
        # Images are loaded by the pipeline, which has backend_args of its own.
        loaders = [getattr(transform, 'backend_args', None) for transform in self.pipeline.transforms]
        if _is_local(self.data_list[0]['img_path'], self.backend_args, *loaders):
            coco_checks.check_images_exist([data_info['img_path'] for data_info in used], self.ann_file)
        return self.data_list


def _is_local(path, *backend_args):
    return '://' not in path and all((args or {}).get('backend', 'local') == 'local' for args in backend_args)
