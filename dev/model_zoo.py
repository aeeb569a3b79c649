"""Writes configs/metafile.yml, by which MIM finds the configs, and from it configs/README.md and docs/models/zoo.md.

Parameters and FLOPs come from `tools/benchmark.py complexity CONFIG… --out FILE.json`, the paper's figures from
mmfocal/benchmark/paper/paper_results.yaml. The metafile's Parameters and FLOPs stay where no FILE.json has others.
Results are entered there by hand once they are measured, and stay.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from mmengine import dump, load
from mmengine.config import Config

from mmfocal.benchmark.paper.tables import (
    BACKBONES,
    DETECTION_SIZE,
    NANO_BACKBONES,
    SEGMENTATION_SIZE,
    image_size,
    row_of,
)
from mmfocal.engine import one_sentence_errors
from mmfocal.errors import ConfigError, MissingFileError

ROOT = Path(__file__).resolve().parents[1]
METAFILE, INDEX, ZOO = ROOT / 'configs/metafile.yml', ROOT / 'configs/README.md', ROOT / 'docs/models/zoo.md'
MASK2FORMER = ('Masked-attention Mask Transformer for Universal Image Segmentation', '2112.01527')
CLASSIFIER = ''  # the method of configs without one
METHODS = {
    CLASSIFIER: (
        'Classifier',
        'Focal Self-attention for Local-Global Interactions in Vision Transformers',
        '2107.00641',
    ),
    'retinanet': ('RetinaNet', 'Focal Loss for Dense Object Detection', '1708.02002'),
    'mask_rcnn': ('Mask R-CNN', 'Mask R-CNN', '1703.06870'),
    'cascade_mask_rcnn': (
        'Cascade Mask R-CNN',
        'Cascade R-CNN: High Quality Object Detection and Instance Segmentation',
        '1906.09756',
    ),
    'htc': ('HTC', 'Hybrid Task Cascade for Instance Segmentation', '1901.07518'),
    'atss': (
        'ATSS',
        'Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample Selection',
        '1912.02424',
    ),
    'atss_dyhead': ('ATSS with DyHead', 'Dynamic Head: Unifying Object Detection Heads with Attentions', '2106.08322'),
    'reppointsv2': ('RepPoints V2', 'RepPoints V2: Verification Meets Regression for Object Detection', '2007.08508'),
    'sparse_rcnn': ('Sparse R-CNN', 'Sparse R-CNN: End-to-End Object Detection with Learnable Proposals', '2011.12450'),
    'dino': ('DINO', 'DINO: DETR with Improved DeNoising Anchor Boxes for End-to-End Object Detection', '2203.03605'),
    'panoptic_fpn': ('Panoptic FPN', 'Panoptic Feature Pyramid Networks', '1901.02446'),
    'mask2former_panoptic': ('Mask2Former, panoptic', *MASK2FORMER),
    'mask2former_instance': ('Mask2Former, instances', *MASK2FORMER),
    'upernet': ('UPerNet', 'Unified Perceptual Parsing for Scene Understanding', '1807.10221'),
    'semantic_fpn': ('Semantic FPN', 'Panoptic Feature Pyramid Networks', '1901.02446'),
    'segformer': (
        'SegFormer',
        'SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers',
        '2105.15203',
    ),
    'mask2former': ('Mask2Former, semantic', *MASK2FORMER),
}
SCHEDULES = (
    '1x',
    '3x',
    '50e',
    '80k_ade20k',
    '160k_ade20k',
    '80k_cityscapes',
    '300e_imagenet',
    '30e_imagenet',
    'shapes',
)
TASKS = {  # headings of the index
    'Image classification': (CLASSIFIER,),
    'Object detection and instance segmentation': (
        'retinanet',
        'mask_rcnn',
        'cascade_mask_rcnn',
        'atss',
        'reppointsv2',
        'sparse_rcnn',
        'dino',
        'atss_dyhead',
        'htc',
        'mask2former_instance',
    ),
    'Panoptic segmentation': ('panoptic_fpn', 'mask2former_panoptic'),
    'Semantic segmentation': ('upernet', 'semantic_fpn', 'segformer', 'mask2former'),
}
STARTS = {  # what a newcomer wants, and the configs to start with
    'try mmfocal on a CPU (`make demo`)': ('atss_focal_nano_shapes',),
    'classify images, pretrain a backbone': ('focal_tiny_300e_imagenet', 'focal_nano_shapes'),
    'detect objects': ('atss_focal_tiny_swin_init_1x', 'atss_focal_tiny_3x'),
    'segment instances': ('mask_rcnn_focal_tiny_swin_init_1x', 'cascade_mask_rcnn_focal_tiny_3x'),
    'segment semantically': ('upernet_focal_tiny_swin_init_160k_ade20k', 'semantic_fpn_focal_tiny_80k_ade20k'),
    'segment panoptically': ('panoptic_fpn_focal_tiny_1x', 'mask2former_panoptic_focal_tiny_50e'),
}
FAMILIES = {
    'Focal': 'focal',
    'Swin': 'swin',
    'PVT': 'pvt',
    'ViL': 'vil',
    'ResNet, ResNeXt': ('r50', 'r101', 'x101', 'resnet'),
    'DeiT, ViT': ('deit', 'vit_'),
    'CvT': 'cvt',
}
PREFIXES = tuple(prefix for one in FAMILIES.values() for prefix in ((one,) if isinstance(one, str) else one))
ORDER = (*BACKBONES.values(), *NANO_BACKBONES.values())
DATA = {'shapes': 'generated shapes', 'ade20k': 'ADE20K', 'imagenet': 'ImageNet-1K', 'cityscapes': 'Cityscapes'}
METRICS = {
    'top-1': 'top1',
    'box AP': 'box_ap',
    'mask AP': 'mask_ap',
    'PQ': 'pq',
    'mIoU': 'miou',
    'mIoU (MS)': 'miou_ms',
}
PAPER_FIGURES = {'Table': 'table', **METRICS, 'Parameters (M)': 'params_m', 'FLOPs (G)': 'flops_g'}
DETECTION, SEGMENTATION = ('×'.join(map(str, size)) for size in (DETECTION_SIZE, SEGMENTATION_SIZE))
HEADER = f"""\
# Written by dev/model_zoo.py. Enter measured Results here, in percent, and run it again.
# Paper Results: reported by arXiv 2107.00641, not measured here. Parameters: all. FLOPs: multiply-adds of one image of
# {DETECTION} pixels, or of the model's Image Size. No model has Weights, since none are released.
"""


def split_name(name: str) -> tuple[str, str, str]:
    """Splits a config's name into method, backbone and schedule.

    Raises:
        ConfigError: If METHODS has no such method, or SCHEDULES no such schedule.
    """
    schedule = max((s for s in SCHEDULES if name.endswith(f'_{s}')), key=len, default=None)
    method = max((m for m in METHODS if m and name.startswith(f'{m}_')), key=len, default=None)
    if schedule and method is None and name.startswith(PREFIXES):
        method = CLASSIFIER
    if method is None or schedule is None:
        table, part = ('METHODS', 'method') if method is None else ('SCHEDULES', 'schedule')
        raise ConfigError(f'configs/{name}.py: unknown {part}; add it to {table} in dev/model_zoo.py')
    return method, name[len(method) :].removesuffix(f'_{schedule}').removeprefix('_'), schedule


def sorted_configs() -> list[Path]:
    """Returns all configs in the order of METHODS, of SCHEDULES and of the backbones in the paper's tables."""

    def key(path: Path) -> tuple:
        method, backbone, schedule = split_name(path.stem)
        known = max((b for b in ORDER if backbone.startswith(b)), key=len, default=None)
        place = ORDER.index(known) if known else len(ORDER)
        return list(METHODS).index(method), SCHEDULES.index(schedule), place, backbone

    return sorted((ROOT / 'configs').glob('*.py'), key=key)


def make_metafile(old: dict, complexity_files: Sequence[str | Path]) -> dict:
    """Describes all configs in OpenMMLab's format.

    Args:
        old: The metafile so far, or an empty one.
        complexity_files: JSON files of `tools/benchmark.py complexity --out`.

    Returns:
        Collections, one per method, and Models, one per config.
    """
    counts = read_counts(complexity_files)
    before = {model['Name']: model for model in old.get('Models', ())}
    collections = [
        dict(Name=name, Paper=dict(Title=title, URL=f'https://arxiv.org/abs/{number}'))
        for name, title, number in METHODS.values()
    ]
    models = [describe(path, before.get(path.stem, {}), counts) for path in sorted_configs()]
    return dict(Collections=collections, Models=models)


def describe(path: Path, before: dict, counts: dict[str, dict]) -> dict:
    """Describes one config; `before` is its description in the old metafile."""
    cfg = Config.fromfile(path)
    length = 'max_epochs' if 'max_epochs' in cfg.train_cfg else 'max_iters'
    metadata = {
        'Training Data': DATA.get(path.stem.split('_')[-1], 'COCO 2017'),
        'Epochs' if length == 'max_epochs' else 'Iterations': cfg.train_cfg[length],
        'Batch Size': cfg.auto_scale_lr.base_batch_size,
    }
    size = image_size(path.stem, cfg.default_scope)
    if size != DETECTION_SIZE:
        metadata['Image Size'] = '×'.join(map(str, size))
    metadata |= {key: value for key, value in before.get('Metadata', {}).items() if key in ('Parameters', 'FLOPs')}
    metadata |= counts.get(architecture(cfg), {})
    collection = METHODS[split_name(path.stem)[0]][0]
    model = {'Name': path.stem, 'In Collection': collection, 'Config': f'configs/{path.name}', 'Metadata': metadata}
    row = row_of(path.stem)
    if row:
        model['Paper Results'] = {name: row[key] for name, key in PAPER_FIGURES.items() if key in row}
    return model | {key: value for key, value in before.items() if key == 'Results'}


def read_counts(paths: Sequence[str | Path]) -> dict[str, dict]:
    """Returns Parameters and FLOPs by architecture, so that those of a 3x config serve the 1x config of the same model.

    Raises:
        MissingFileError: If a file does not exist.
        ConfigError: If a model was counted at another image size than the metafile's.
    """
    counts = {}
    for path in paths:
        if not Path(path).is_file():
            raise MissingFileError(
                f'{path}: no such file; write it with tools/benchmark.py complexity CONFIG… --out {path}'
            )
        for model in json.loads(Path(path).read_text())['models']:
            cfg = Config.fromfile(ROOT / f'configs/{model["config"]}.py')
            size = image_size(model['config'], cfg.default_scope)
            if (model['width'], model['height']) != size:
                raise ConfigError(
                    f'{path}: {model["config"]} was counted at {model["width"]}×{model["height"]} pixels; '
                    f'count it at {"×".join(map(str, size))}, without --size'
                )
            counts[architecture(cfg)] = {'Parameters': model['params'][''], 'FLOPs': model['flops']['']}
    return counts


def architecture(cfg: Config) -> str:
    """Returns the model's settings without those that only training reads."""
    model = cfg.model.to_dict()
    for key in ('drop_path_rate', 'init_cfg'):
        model['backbone'].pop(key, None)
    return json.dumps(model, sort_keys=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table without the columns that no row fills."""
    filled = [i for i in range(len(header)) if any(row[i] for row in rows)]
    lines = (header, ['---'] * len(header), *rows)
    return ''.join(f'| {" | ".join(line[i] for i in filled)} |\n' for line in lines)


def make_zoo(metafile: dict) -> str:
    """Returns docs/models/zoo.md: a table per method with figures of the paper and of this project."""
    shapes = [model for model in metafile['Models'] if model['Metadata']['Training Data'] == DATA['shapes']]
    text = f"""\
# Zoo

<!-- Written by dev/model_zoo.py from configs/metafile.yml. -->

All configs with their figures. [`configs/README.md`](../../configs/README.md) is the index by method and backbone. No
weights are released.

- **Parameters** and **GFLOPs** are counted by `mmfocal benchmark complexity`: all parameters, frozen ones and those of
  auxiliary heads included; multiply-adds of one image of {DETECTION} pixels with RoI heads, or of {SEGMENTATION} pixels
  for semantic segmentation. [Complexity](../benchmark/complexity.md) has the rules.
- **Paper** is what arXiv 2107.00641 reports of its own training, with the number of its table: box AP / mask AP in
  percent on COCO val2017; for ADE20K mIoU / mIoU (MS) of its authors' README. Nobody has reproduced these figures
  with the configs here.
- **mmfocal** is what was measured with the config as it is, in percent. A table in which nothing has been measured
  does not have the column.
"""
    for collection in metafile['Collections']:
        models = [
            model
            for model in metafile['Models']
            if model['In Collection'] == collection['Name'] and model not in shapes
        ]
        title = f'[{collection["Paper"]["Title"]}]({collection["Paper"]["URL"]})'
        text += f'\n## {collection["Name"]}\n\n{title}\n\n' + zoo_table(models)
    text += """
## Generated shapes

Nano models, trained from scratch on a CPU and tested on 300 held-out images: [Results](../benchmark/results.md) has the
commands. Box AP / mask AP, or mIoU.

"""
    return text + zoo_table(shapes)


def zoo_table(models: Sequence[dict]) -> str:
    header = ('Config', 'Parameters, M', 'GFLOPs', 'Paper', 'mmfocal')
    return table(header, [zoo_row(model) for model in models])


def zoo_row(model: dict) -> list[str]:
    """Returns a config's cells: name, parameters, FLOPs, the paper's figures, measured figures."""
    metadata, paper = model['Metadata'], model.get('Paper Results', {})
    ours = {name: value for result in model.get('Results', ()) for name, value in result['Metrics'].items()}
    cells = [f'[`{model["Name"]}`](../../{model["Config"]})']
    for key, unit, form in (('Parameters', 1e6, '.2f'), ('FLOPs', 1e9, '.1f')):
        cells.append(f'{metadata[key] / unit:{form}}' if key in metadata else '')
    if metadata.get('Image Size', SEGMENTATION) != SEGMENTATION:
        cells[-1] += f' (at {metadata["Image Size"]})'
    source = 'README' if paper.get('Table') == 'ADE20K' else f'Table {paper.get("Table")}'
    for figures, note in ((paper, f' ({source})'), (ours, '')):
        values = ' / '.join(f'{figures[name]:.1f}' for name in METRICS if name in figures)
        cells.append(f'{values}{note}' if values else '')
    return cells


def make_index(metafile: dict) -> str:
    """Returns configs/README.md: links to all configs, by task, method and backbone."""
    text = """\
# Configs

<!-- Written by dev/model_zoo.py. -->

A config is named `<method>_<backbone>_<schedule>.py`; a classifier's name has no method. It states only what differs
from its bases in `_base_/` (`models/`, `backbones/`, `datasets/`, `schedules/`, `runtime/`).

"""
    rows = [[purpose, ', '.join(f'[`{name}`]({name}.py)' for name in names)] for purpose, names in STARTS.items()]
    text += table(('I want to', 'Start with'), rows)
    text += """
For another backbone, take the same name with `swin_tiny` or `r50`. To train on your own data, write a config of a few
lines on top of one of these: [Your own data](../docs/get_started/your_data.md).

Schedules: `1x` is 12 epochs, `3x` 36, `50e` 50, `300e` 300; `80k` and `160k` are iterations. The batch is 16, of
classifiers 1024, unless the config says otherwise.

Weights of the backbone ([Weights](../docs/models/weights.md)):

- `focal_tiny_swin_init` starts from Swin-T's, which are downloaded.
- `focal_tiny`, `focal_small`, `focal_base`, `focal_large`: `FOCAL_TINY=FILE` and so on, or `FOCAL_TINY=none` to train
  from scratch. `focal_tiny_conv`, with convolutional embedding, reads `FOCAL_TINY_CONV`.
- Swin, PVT and ResNet weights are downloaded.

The [Zoo](../docs/models/zoo.md) has parameters, FLOPs and AP.
"""
    names = {}
    for model in metafile['Models']:
        names.setdefault(split_name(model['Name'])[0], []).append(model['Name'])
    for task, methods in TASKS.items():
        rows = [
            [METHODS[method][0], *(index_cell(names[method], prefix) for prefix in FAMILIES.values())]
            for method in methods
        ]
        text += f'\n## {task}\n\n' + table(('Method', *FAMILIES), rows)
    rows = []
    for method, its_names in names.items():
        nano = {split_name(name)[1]: f'[shapes]({name}.py)' for name in its_names if split_name(name)[2] == 'shapes'}
        if nano:
            rows.append([METHODS[method][0], *(nano.get(name, '') for name in reversed(NANO_BACKBONES.values()))])
    text += """
## Generated shapes

Nano models that learn drawn shapes on a CPU in minutes. `tools/dataset_converters/make_shapes.py` writes the data set.

"""
    return text + table(('Method', *(f'`{name}`' for name in reversed(NANO_BACKBONES.values()))), rows)


def index_cell(names: Sequence[str], prefix: str | tuple[str, ...]) -> str:
    """Returns the links to a method's configs with backbones of one family, a line per backbone."""
    links = {}
    for name in names:
        _, backbone, schedule = split_name(name)
        if backbone.startswith(prefix) and schedule != 'shapes':
            links.setdefault(backbone, []).append(f'[{schedule}]({name}.py)')
    return '<br>'.join(f'`{backbone}` {" ".join(schedules)}' for backbone, schedules in links.items())


def to_yaml(metafile: dict) -> str:
    return HEADER + dump(metafile, file_format='yaml', sort_keys=False, width=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        'complexity', nargs='*', metavar='FILE.json', help='written by tools/benchmark.py complexity CONFIG… --out'
    )
    args = parser.parse_args()
    metafile = make_metafile(load(METAFILE) if METAFILE.is_file() else {}, args.complexity)
    METAFILE.write_text(to_yaml(metafile))
    INDEX.write_text(make_index(metafile))
    ZOO.write_text(make_zoo(metafile))
    uncounted = [model['Name'] for model in metafile['Models'] if 'FLOPs' not in model['Metadata']]
    print(f'{len(metafile["Models"])} configs; not counted: {", ".join(uncounted) or "none"}')


if __name__ == '__main__':
    with one_sentence_errors():
        main()
