"""Mean IoU that names the classes it leaves out, and label maps that keep the images' folders."""

import logging
import os.path as osp
from collections.abc import Sequence

from mmengine.logging import print_log
from mmengine.utils import mkdir_or_exist
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS

from mmfocal.datasets.validation.issues import quote_some


@METRICS.register_module()
class CheckedIoUMetric(IoUMetric):
    """MMSegmentation's `IoUMetric`, which names the classes that its means leave out.

    A class without a pixel in label maps and predictions has no IoU, and one without a pixel in the label maps alone an
    IoU of 0. Predictions that `output_dir` names keep the folders of their images.

    Arguments are those of `IoUMetric`.
    """

    image_root = ''  # folder of all images, which `PicturesHook` sets

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Compares predictions as `IoUMetric` does, and writes each beside those of the same folder."""
        output_dir = self.output_dir
        try:
            for sample in data_samples:
                if output_dir is not None:
                    folder = osp.dirname(osp.abspath(sample['img_path']))
                    inside = self.image_root and osp.join(folder, '').startswith(osp.join(self.image_root, ''))
                    self.output_dir = osp.join(output_dir, osp.relpath(folder, self.image_root) if inside else '')
                    mkdir_or_exist(self.output_dir)
                super().process(data_batch, [sample])
        finally:
            self.output_dir = output_dir

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Computes what `IoUMetric` does, and logs the classes that the label maps lack."""
        if results and not self.format_only:
            pixels = sum(label for _, _, _, label in results)
            classes = self.dataset_meta['classes']
            absent = [name for name, count in zip(classes, pixels.tolist()) if not count]
            if absent:
                print_log(
                    f'{len(absent)} of {len(classes)} classes have no pixel in the label maps: {quote_some(absent)}; '
                    'means leave out those that are not predicted either',
                    'current',
                    logging.WARNING,
                )
        return super().compute_metrics(results)
