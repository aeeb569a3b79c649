"""Results for a test server: predictions for images without annotations, in the server's format."""

import json
import os.path as osp
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.dist import is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from mmengine.runner import Runner

from mmfocal.cli.evaluation import ACCURACY, COCO, PANOPTIC, evaluators_of, kind_of
from mmfocal.datasets.wrappers import iterate_inner
from mmfocal.errors import ConfigError
from mmfocal.files import open_atomically
from mmfocal.inference.outputs import ResultWriter
from mmfocal.inference.results import Prediction
from mmfocal.inference.sources import Frame
from mmfocal.visualization.pictures import find_image_root, relative_name
from mmfocal.weights import load_checkpoint

PREFIXES = ('panoptic_', 'instances_', 'image_info_')  # of COCO's annotation files
TOP_K = 5  # classes per image, as of mmfocal predict


class Submission:
    """Sets a config up for predictions without annotations, and packs what its test writes.

    COCO's servers get ZIP files with the names that they ask for: `bbox/detections_SPLIT_NAME_results.zip`,
    `segm/detections_SPLIT_NAME_results.zip` or `panoptic/panoptic_SPLIT_NAME_results.zip`. Segmentors write label maps,
    as MMSegmentation does. Classifiers write the files of `mmfocal predict`, with paths
    relative to the data set's folder.

    Args:
        cfg: The config, which is changed.
        config: Its name.
        name: Of the algorithm.
        folder: Gets the files.

    Raises:
        ConfigError: If the name has other characters than a file name should have, or the config has no evaluator that
            can write predictions.
    """

    def __init__(self, cfg: Config, config: str, name: str, folder: str):
        if not re.fullmatch(r'[\w.-]+', name):
            raise ConfigError(f'--format-only {name!r}: not a name; use letters, digits, hyphens, dots and underscores')
        self.folder, self.results = Path(folder), Path(folder, 'results')
        dataset = cfg.test_dataloader.dataset
        self.split = split_of(dataset.get('ann_file') or '')
        self.name = f'{self.split}_{name}_results'
        self.packed = False
        if ACCURACY in map(kind_of, evaluators_of(cfg)):
            cfg.test_evaluator = dict(type='ClassPredictions')
            if is_flat(dataset):
                dataset.with_label = False
            if is_main_process():
                self.folder.mkdir(parents=True, exist_ok=True)
            return
        known = False
        for evaluator in evaluators_of(cfg):
            kind = kind_of(evaluator)
            if kind in (COCO, PANOPTIC):
                self.packed = known = True
                evaluator.update(format_only=True, outfile_prefix=str(self.results))
                if dataset.get('ann_file'):  # for the ids of categories
                    evaluator.ann_file = osp.join(dataset.get('data_root') or '', dataset.ann_file)
            elif kind.endswith('IoUMetric'):
                known = True
                evaluator.update(format_only=True, output_dir=folder, keep_results=True)
        if not known:
            raise ConfigError(
                f'{config}: --format-only needs a test_evaluator of COCO, label maps or accuracy; set one'
            )
        drop_annotations(dataset, keep_boxes=self.packed)
        if is_main_process():
            self.folder.mkdir(parents=True, exist_ok=True)

    def pack(self, runner: Runner) -> None:
        """Packs the predictions after the test, in the main process, and prints the files.

        Args:
            runner: After its test.

        Raises:
            SavingError: If a file cannot be written.
        """
        if not is_main_process():
            return
        for metric in runner.test_evaluator.metrics:
            if isinstance(metric, ClassPredictions):
                self._write_classes(runner, metric)
                return
        if not self.packed:
            print(self.folder)
            return
        written = []
        for metric in ('bbox', 'segm'):
            found = self.results.with_name(f'{self.results.name}.{metric}.json')
            if found.exists():
                written.append(self._pack_detections(found, metric))
        if self.results.with_name(f'{self.results.name}.panoptic.json').exists():
            written.append(self._pack_panoptic())
        for path in written:
            print(path)

    def _write_classes(self, runner: Runner, metric: 'ClassPredictions') -> None:
        dataset = runner.test_dataloader.dataset
        meta = load_checkpoint(str(runner._load_from)).get('meta') or {}
        classes = dataset.metainfo.get('classes') or (meta.get('dataset_meta') or {}).get('classes')
        classes = tuple(map(str, classes or range(metric.num_classes)))  # a released checkpoint has no names
        root = find_image_root(iterate_inner(dataset))
        writer = ResultWriter(self.folder, dict(classes=classes), pictures=False, top_k=TOP_K)
        for path, size, labels, scores in metric.predictions:
            name = relative_name(path, root)
            prediction = Prediction(size, classes, labels=labels, scores=scores, is_classification=True)
            writer.add(Frame(name, name), prediction)
        for name in writer.close():
            print(self.folder / name)

    def _pack_detections(self, found: Path, metric: str) -> Path:
        entries = json.loads(found.read_text())
        if metric == 'segm':
            for entry in entries:  # COCO's code would take sizes from boxes
                entry.pop('bbox', None)
        path = self.folder / metric / f'detections_{self.name}.zip'
        with open_atomically(path) as file, ZipFile(file, 'w', ZIP_DEFLATED) as archive:
            archive.writestr(f'detections_{self.name}.json', json.dumps(entries))
        found.unlink()
        return path

    def _pack_panoptic(self) -> Path:
        found = self.results.with_name(f'{self.results.name}.panoptic.json')
        pictures = self.results.with_name(f'{self.results.name}.panoptic')
        path = self.folder / 'panoptic' / f'panoptic_{self.name}.zip'
        with open_atomically(path) as file, ZipFile(file, 'w', ZIP_DEFLATED) as archive:
            archive.write(found, f'panoptic_{self.name}.json')
            for picture in sorted(pictures.glob('*.png')):
                archive.write(picture, f'panoptic_{self.name}/{picture.name}')
        found.unlink()
        shutil.rmtree(pictures, ignore_errors=True)
        return path


@METRICS.register_module()
class ClassPredictions(BaseMetric):
    """Keeps the most probable classes of each image; gives no figures."""

    default_prefix = ''
    predictions: Sequence[tuple[str, tuple[int, int], np.ndarray, np.ndarray]] = ()
    num_classes = 0

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keeps a batch's paths, sizes, labels and scores."""
        for sample in data_samples:
            scores = sample['pred_score'].cpu().numpy().astype(np.float32)
            labels = np.argsort(-scores, kind='stable')[:TOP_K]
            self.num_classes = len(scores)
            self.results.append((sample['img_path'], tuple(sample['ori_shape'][:2]), labels, scores[labels]))

    def compute_metrics(self, results: list) -> dict:
        """Keeps the predictions of all processes."""
        self.predictions = results
        return {}


def split_of(ann_file: str) -> str:
    """Returns the name of a split, as COCO's servers call it: test-dev2017 for image_info_test-dev2017.json."""
    stem = Path(ann_file).stem
    for prefix in PREFIXES:
        stem = stem.removeprefix(prefix)
    return stem or 'test'


def is_flat(dataset: ConfigDict) -> bool:
    """Returns whether a classifier's data set is a folder of images without class folders and without a list."""
    prefix = dataset.get('data_prefix') or ''
    folder = Path(dataset.get('data_root') or '', prefix if isinstance(prefix, str) else prefix.get('img_path') or '')
    is_list = dataset.get('ann_file') or not str(dataset.type).endswith(('CustomDataset', 'ImageNet'))
    return not is_list and folder.is_dir() and not any(path.is_dir() for path in folder.iterdir())


def drop_annotations(dataset: ConfigDict, keep_boxes: bool) -> None:
    """Removes what loads label maps and segments, which test images do not have; boxes come with the annotation file.

    Args:
        dataset: The settings, which are changed.
        keep_boxes: Whether boxes and masks are loaded as before.
    """
    kinds = ('LoadPanopticAnnotations',) if keep_boxes else ('LoadAnnotations', 'LoadCheckedAnnotations')
    dataset.test_mode = True
    steps = dataset.get('pipeline') or []
    dataset.pipeline = [step for step in steps if str(step.type).rpartition('.')[2] not in kinds]
    prefix = dataset.get('data_prefix') or {}
    for key in ('seg', 'seg_map_path'):
        prefix.pop(key, None)
