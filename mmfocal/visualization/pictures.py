"""Pictures of predictions, one file per image, in the folders that the images are in."""

import inspect
import os.path as osp
from collections.abc import Iterable, Sequence
from typing import Any

import mmcv
from mmengine.fileio import get
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmfocal.datasets.wrappers import iterate_inner
from mmfocal.datasets.zip_backend import PREFIX, parse_uri
from mmfocal.visualization.fonts import use_font_for

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')  # that OpenCV writes
LEGIBLE = 320  # px; smaller images of classifiers are enlarged, or their texts would cover them


@HOOKS.register_module()
class PicturesHook(Hook):
    """Draws ground truth and predictions of detectors, classifiers and segmentors.

    In testing each image has a picture of its own in `test_out_dir`, at its place relative to the folder of all
    images, so that `batch_1/000.jpg` and `batch_2/000.jpg` have two. Without `test_out_dir`, and in validation,
    pictures go to the visualizer's backends. `CheckedIoUMetric` writes label maps to the same places.

    Args:
        draw: Whether pictures are drawn.
        interval: In validation, iterations between pictures of a batch's first image.
        score_thr: Lowest score of detections that are drawn.
        show: Whether pictures are shown in a window instead of being stored.
        wait_time: Seconds that a window shows a picture.
        test_out_dir: Folder for the pictures of testing, absolute or relative to the working directory.
        backend_args: Arguments of MMEngine's file backend for images.
    """

    def __init__(
        self,
        draw: bool = False,
        interval: int = 50,
        score_thr: float = 0.3,
        show: bool = False,
        wait_time: float = 0.0,
        test_out_dir: str | None = None,
        backend_args: dict | None = None,
    ):
        self.draw, self.interval, self.score_thr = draw, interval, score_thr
        self.show, self.wait_time = show, wait_time
        self.test_out_dir, self.backend_args = test_out_dir, backend_args
        self.root = ''

    def before_run(self, runner: Runner) -> None:
        """Chooses a font that has the letters of the class names."""
        if self.draw:
            meta = getattr(runner.visualizer, 'dataset_meta', None) or {}
            use_font_for(map(str, meta.get('classes', ())))

    def before_test(self, runner: Runner) -> None:
        """Finds the folder of all images, which places are relative to."""
        if self.draw:
            use_font_for(map(str, runner.visualizer.dataset_meta.get('classes', ())))
        self.root = find_image_root(iterate_inner(runner.test_dataloader.dataset))
        for metric in runner.test_evaluator.metrics:
            if hasattr(metric, 'image_root'):
                metric.image_root = self.root

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None
    ) -> None:
        """Draws the first image of a batch every `interval` iterations."""
        step = runner.iter + batch_idx
        if self.draw and step % self.interval == 0:
            self._draw(runner, outputs[0], 'val_img', step)

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None
    ) -> None:
        """Draws all images of a batch."""
        for sample in outputs if self.draw else ():
            name = relative_name(sample.img_path, self.root)
            out_file = None
            if self.test_out_dir is not None:
                out_file = osp.join(self.test_out_dir, name)
                # Colours of classes are exact in PNG only, and OpenCV does not write all formats that it reads.
                if 'pred_sem_seg' in sample and not name.endswith('.png') or not name.lower().endswith(SUFFIXES):
                    out_file += '.png'
            self._draw(runner, sample, name.replace('/', '_'), batch_idx, out_file)

    def _draw(self, runner: Runner, sample: Any, name: str, step: int, out_file: str | None = None) -> None:
        content = get(sample.img_path, backend_args=self.backend_args)
        image = mmcv.imfrombytes(content, channel_order='rgb')
        if hasattr(runner.visualizer, 'visualize_cls'):  # MMPretrain's
            runner.visualizer.visualize_cls(
                image, sample, rescale_factor=max(1.0, LEGIBLE / max(image.shape[:2])), name=name, step=step,
                show=self.show, wait_time=self.wait_time, out_file=out_file, text_cfg=dict(family='sans-serif'),
            )  # fmt: skip
            return
        draw = runner.visualizer.add_datasample
        options = dict(pred_score_thr=self.score_thr) if 'pred_score_thr' in inspect.signature(draw).parameters else {}
        draw(
            name, image, data_sample=sample, show=self.show, wait_time=self.wait_time, out_file=out_file, step=step,
            **options,
        )  # fmt: skip


def find_image_root(datasets: Iterable[Any]) -> str:
    """Returns the folder that all images of data sets lie in, or an empty text if there is none.

    Args:
        datasets: Data sets that are not wrapped.
    """
    folders = set()
    for dataset in datasets:
        prefix = getattr(dataset, 'data_prefix', None) or {}
        folder = prefix.get('img') or prefix.get('img_path')
        if not folder:
            folder = getattr(dataset, 'data_root', None) or ''
        folders.add(osp.abspath(folder))
    return osp.commonpath(folders) if folders else ''


def relative_name(path: str, root: str) -> str:
    """Returns an image's path relative to a folder, or its last part if it does not lie in the folder."""
    if path.startswith(PREFIX):
        member = parse_uri(path)
        path = f'{osp.splitext(member.archive)[0]}/{member.name}'
    path = osp.abspath(path)
    return osp.relpath(path, root) if root and path.startswith(osp.join(root, '')) else osp.basename(path)
