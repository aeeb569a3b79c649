"""Writes configs/metafile.yml, by which MIM finds the configs, and from it docs/model_zoo.md.

Parameters and FLOPs come from what `tools/benchmark.py complexity CONFIG… --out FILE.json` counted, each config's paper figures
from mmfocal/benchmark/paper_results.yaml. What the metafile has already is kept where no FILE.json says otherwise: Parameters and
FLOPs, and Results, which are entered there by hand once they are measured.
"""

import argparse
import json
from pathlib import Path

from mmengine import dump, load
from mmengine.config import Config

from mmfocal.benchmark.paper.tables import (
    BACKBONES,
    DETECTION_SIZE,
    NANO_BACKBONES,
    SEGMENTATION_SIZE,
    image_size,
    paper_rows,
    row_of,
)
from mmfocal.engine import one_sentence_errors
from mmfocal.errors import ConfigError, MissingFileError

ROOT = Path(__file__).resolve().parents[1]
METAFILE, DOCUMENT = ROOT / 'configs/metafile.yml', ROOT / 'docs/model_zoo.md'
MASK2FORMER = ('Masked-attention Mask Transformer for Universal Image Segmentation', '2112.01527')
METHODS = {
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
SCHEDULES = ('1x', '3x', '50e', '80k_ade20k', '160k_ade20k', '80k_cityscapes', 'shapes')
DATA = {'shapes': 'generated shapes', 'ade20k': 'ADE20K', 'cityscapes': 'Cityscapes'}
METRICS = {'box AP': 'box_ap', 'mask AP': 'mask_ap', 'PQ': 'pq', 'mIoU': 'miou', 'mIoU (MS)': 'miou_ms'}
PAPER_FIGURES = {'Table': 'table', **METRICS, 'Parameters (M)': 'params_m', 'FLOPs (G)': 'flops_g'}
DETECTION, SEGMENTATION = ('×'.join(map(str, size)) for size in (DETECTION_SIZE, SEGMENTATION_SIZE))
HEADER = f"""\
# Written by dev/model_zoo.py. Enter measured Results here, in percent, and run it again.
# Paper Results: what arXiv 2107.00641 reports, never measured here. Parameters: all there are. FLOPs: multiply-adds of one image of
# {DETECTION} pixels, or of the model's Image Size. Nothing has Weights, since none are released.
"""


def make_metafile(old: dict, complexity_files: list) -> dict:
    """Describes all configs in OpenMMLab's format.

    Args:
        old (dict): The metafile so far, or an empty one.
        complexity_files (list): Paths of JSON files of `tools/benchmark.py complexity --out`.

    Returns:
        dict: Collections, one a method, and Models, one a config.
    """
    counts = read_counts(complexity_files)
    before = {model['Name']: model for model in old.get('Models', ())}
    collections, models = [], []
    for method, (collection, title, number) in METHODS.items():
        collections.append(dict(Name=collection, Paper=dict(Title=title, URL=f'https://arxiv.org/abs/{number}')))
        for schedule in SCHEDULES:
            for backbone in (*BACKBONES.values(), *NANO_BACKBONES.values()):
                path = ROOT / f'configs/{method}_{backbone}_{schedule}.py'
                if path.is_file():
                    models.append(describe(path, collection, before.get(path.stem, {}), counts))
    return dict(Collections=collections, Models=models)


def describe(path, collection, before, counts):
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
    model = {'Name': path.stem, 'In Collection': collection, 'Config': f'configs/{path.name}', 'Metadata': metadata}
    row = row_of(path.stem)
    if row:
        model['Paper Results'] = {name: row[key] for name, key in PAPER_FIGURES.items() if key in row}
    return model | {key: value for key, value in before.items() if key == 'Results'}


def read_counts(paths):
    """Parameters and FLOPs by architecture, so that those of a 3x config serve the 1x config of the same model."""
    counts = {}
    for path in paths:
        if not Path(path).is_file():
            raise MissingFileError(
                f'{path}: no such file; make it with tools/benchmark.py complexity CONFIG… --out {path}'
            )
        record = json.loads(Path(path).read_text())
        for model in record['models']:
            cfg = Config.fromfile(ROOT / f'configs/{model["config"]}.py')
            size = image_size(model['config'], cfg.default_scope)
            if (model['width'], model['height']) != size:
                raise ConfigError(
                    f'{path}: {model["config"]} is of {model["width"]}×{model["height"]} pixels; count it at '
                    f'{"×".join(map(str, size))}, without --size'
                )
            counts[architecture(cfg)] = {'Parameters': model['params'][''], 'FLOPs': model['flops']['']}
    return counts


def architecture(cfg):
    """The model's settings less those that only training reads."""
    model = cfg.model.to_dict()
    for key in ('drop_path_rate', 'init_cfg'):
        model['backbone'].pop(key, None)
    return json.dumps(model, sort_keys=True)


def make_document(metafile: dict) -> str:
    """The tables of docs/model_zoo.md."""
    absent = [row for row in paper_rows() if not row['config']]
    names = {key: ', '.join(sorted({str(row[key]) for row in absent})) for key in ('backbone', 'method', 'table')}
    lines = [
        f"""\
# Model zoo

All configs, written by `python dev/model_zoo.py` from [configs/metafile.yml](../configs/metafile.yml).

- **Parameters and GFLOPs** are counted here, by `tools/benchmark.py complexity`: all parameters, frozen ones and auxiliary heads' too;
  multiply-adds of one image of {DETECTION} pixels, RoI heads included, and for semantic segmentation of {SEGMENTATION} pixels.
- **The paper's AP** is what arXiv 2107.00641 reports of its own training, with the number of its table: box AP, and mask AP after the
  slash, in percent on COCO val2017. **The paper's mIoU** is that of its authors' README on ADE20K's validation images, multi-scale after
  the slash. Nobody has reproduced these figures with the configs here.
- **Our AP, PQ and mIoU** were measured with the config as it is: on COCO val2017 and the validation images of ADE20K and Cityscapes, empty
  until someone trains it; for the configs of generated shapes on 300 held-out images, where [results](results.md) has the commands. No
  weights are released.

The rows of Tables {names['table']} with {names['backbone']} ({names['method']}) are left out, since no library has ViL.
"""
    ]
    for collection in metafile['Collections']:
        models = [model for model in metafile['Models'] if model['In Collection'] == collection['Name']]
        segmentors = 'Image Size' in models[0]['Metadata']
        figure = 'mIoU' if segmentors else 'PQ / AP' if 'anoptic' in collection['Name'] else 'AP'
        lines.append(
            f'\n## {collection["Name"]}\n\n[{collection["Paper"]["Title"]}]({collection["Paper"]["URL"]})\n\n| config | '
            f"parameters, M | GFLOPs{f' at {SEGMENTATION}' if segmentors else ''} | the paper's {figure} | our {figure} |\n"
            '| --- | --- | --- | --- | --- |\n'
        )
        lines += map(document_row, models)
    return ''.join(lines)


def document_row(model):
    metadata, paper = model['Metadata'], model.get('Paper Results', {})
    ours = {name: value for result in model.get('Results', ()) for name, value in result['Metrics'].items()}
    cells = [f'[{model["Name"]}](../{model["Config"]})']
    for key, unit, form in (('Parameters', 1e6, '.2f'), ('FLOPs', 1e9, '.1f')):
        cells.append(f'{metadata[key] / unit:{form}}' if key in metadata else '')
    if metadata.get('Image Size', SEGMENTATION) != SEGMENTATION:
        cells[-1] += f' (at {metadata["Image Size"]})'
    for figures, source in (
        (paper, ' (README)' if paper.get('Table') == 'ADE20K' else f' (Table {paper.get("Table")})'),
        (ours, ''),
    ):
        values = ' / '.join(f'{figures[name]:.1f}' for name in METRICS if name in figures)
        cells.append(f'{values}{source}' if values else '')
    return f'| {" | ".join(cells)} |\n'


def to_yaml(metafile: dict) -> str:
    return HEADER + dump(metafile, file_format='yaml', sort_keys=False, width=130)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        'complexity', nargs='*', metavar='FILE.json', help='of tools/benchmark.py complexity CONFIG… --out'
    )
    args = parser.parse_args()
    old = load(METAFILE) if METAFILE.is_file() else {}
    metafile = make_metafile(old, args.complexity)
    METAFILE.write_text(to_yaml(metafile))
    DOCUMENT.write_text(make_document(metafile))
    uncounted = [model['Name'] for model in metafile['Models'] if 'FLOPs' not in model['Metadata']]
    print(f'{len(metafile["Models"])} configs; not counted: {", ".join(uncounted) or "none"}')


if __name__ == '__main__':
    with one_sentence_errors():
        main()
