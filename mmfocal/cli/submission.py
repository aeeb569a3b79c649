"""Results for a test server: predictions for images without annotations, in the server's format."""

import json
import os.path as osp
import re
import shutil
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

from mmengine.config import Config, ConfigDict
from mmengine.dist import is_main_process

from mmfocal.cli.evaluation import COCO, PANOPTIC, evaluators_of
from mmfocal.errors import ConfigError
from mmfocal.files import open_atomically

PREFIXES = ('panoptic_', 'instances_', 'image_info_')  # of COCO's annotation files


class Submission:
    """Sets a config up for predictions without annotations, and packs what its test writes.

    COCO's servers get ZIP files with the names that they ask for: `bbox/detections_SPLIT_NAME_results.zip`,
    `segm/detections_SPLIT_NAME_results.zip` or `panoptic/panoptic_SPLIT_NAME_results.zip`. Segmentors write label maps,
    as MMSegmentation does.

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
        known = False
        for evaluator in evaluators_of(cfg):
            kind = str(evaluator.type).rpartition('.')[2]
            if kind in (COCO, PANOPTIC):
                self.packed = known = True
                evaluator.update(format_only=True, outfile_prefix=str(self.results))
                if dataset.get('ann_file'):  # for the ids of categories
                    evaluator.ann_file = osp.join(dataset.get('data_root') or '', dataset.ann_file)
            elif kind.endswith('IoUMetric'):
                known = True
                evaluator.update(format_only=True, output_dir=folder, keep_results=True)
        if not known:
            raise ConfigError(f'{config}: --format-only needs a test_evaluator of COCO or of label maps; set one')
        drop_annotations(dataset, keep_boxes=self.packed)
        if is_main_process():
            self.folder.mkdir(parents=True, exist_ok=True)

    def pack(self) -> None:
        """Packs the predictions after the test, in the main process, and prints the files."""
        if not is_main_process():
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


def split_of(ann_file: str) -> str:
    """Returns the name of a split, as COCO's servers call it: test-dev2017 for image_info_test-dev2017.json."""
    stem = Path(ann_file).stem
    for prefix in PREFIXES:
        stem = stem.removeprefix(prefix)
    return stem or 'test'


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
