"""Writes configs/metafile.yml, by which MIM finds the configs, and from it docs/model_zoo.md.

Parameters and FLOPs come from what `tools/benchmark.py complexity CONFIG… --out FILE.json` counted, each config's paper figures
from mmfocal/analysis/paper_results.yaml. What the metafile has already is kept where no FILE.json says otherwise: Parameters and
FLOPs, and Results, which are entered there by hand once they are measured.
"""
import argparse
import json
from pathlib import Path

from mmengine import dump, load
from mmengine.config import Config

from mmfocal.analysis.complexity import PAPER_SIZE
from mmfocal.analysis.paper import BACKBONES, detector_rows, row_of
from mmfocal.engine import one_sentence_errors
from mmfocal.errors import ConfigError, MissingFileError

ROOT = Path(__file__).resolve().parents[2]
METAFILE, DOCUMENT = ROOT / 'configs/metafile.yml', ROOT / 'docs/model_zoo.md'
METHODS = {
    'retinanet': ('RetinaNet', 'Focal Loss for Dense Object Detection', '1708.02002'),
    'mask_rcnn': ('Mask R-CNN', 'Mask R-CNN', '1703.06870'),
    'cascade_mask_rcnn': (
        'Cascade Mask R-CNN', 'Cascade R-CNN: High Quality Object Detection and Instance Segmentation', '1906.09756'),
    'htc': ('HTC', 'Hybrid Task Cascade for Instance Segmentation', '1901.07518'),
    'atss': ('ATSS', 'Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample Selection',
             '1912.02424'),
    'atss_dyhead': ('ATSS with DyHead', 'Dynamic Head: Unifying Object Detection Heads with Attentions', '2106.08322'),
    'reppointsv2': ('RepPoints V2', 'RepPoints V2: Verification Meets Regression for Object Detection', '2007.08508'),
    'sparse_rcnn': ('Sparse R-CNN', 'Sparse R-CNN: End-to-End Object Detection with Learnable Proposals', '2011.12450'),
    'dino': ('DINO', 'DINO: DETR with Improved DeNoising Anchor Boxes for End-to-End Object Detection', '2203.03605'),
}
PAPER_FIGURES = {'Table': 'table', 'box AP': 'box_ap', 'mask AP': 'mask_ap', 'Parameters (M)': 'params_m', 'FLOPs (G)': 'flops_g'}
HEADER = f"""\
# Written by tools/misc/model_zoo.py. Enter measured Results here, in percent, and run it again.
# Paper Results: what arXiv 2107.00641 reports, never measured here. Parameters: all there are. FLOPs: multiply-adds of one image of
# {'×'.join(map(str, PAPER_SIZE))} pixels. Nothing has Weights, since none are released.
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
        for schedule in ('1x', '3x', 'shapes'):
            for backbone in (*BACKBONES.values(), 'focal_large', 'focal_nano'):
                path = ROOT / f'configs/{method}_{backbone}_{schedule}.py'
                if path.is_file():
                    models.append(describe(path, collection, before.get(path.stem, {}), counts))
    return dict(Collections=collections, Models=models)


def describe(path, collection, before, counts):
    cfg = Config.fromfile(path)
    metadata = {'Training Data': 'generated shapes' if path.stem.endswith('shapes') else 'COCO 2017',
                'Epochs': cfg.train_cfg.max_epochs, 'Batch Size': cfg.auto_scale_lr.base_batch_size}
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
            raise MissingFileError(f'{path}: no such file; make it with tools/benchmark.py complexity CONFIG… --out {path}')
        record = json.loads(Path(path).read_text())
        if (record['width'], record['height']) != PAPER_SIZE:
            raise ConfigError(f'{path}: is of {record["width"]}×{record["height"]} pixels; count at {"×".join(map(str, PAPER_SIZE))}')
        for model in record['models']:
            cfg = Config.fromfile(ROOT / f'configs/{model["config"]}.py')
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
    absent = [row for row in detector_rows() if not row['config']]
    names = {key: ', '.join(sorted({str(row[key]) for row in absent})) for key in ('backbone', 'method', 'table')}
    lines = [f"""\
# Model zoo

All configs, written by `python tools/misc/model_zoo.py` from [configs/metafile.yml](../configs/metafile.yml).

- **Parameters and GFLOPs** are counted here, by `tools/benchmark.py complexity`: all parameters, frozen ones too; multiply-adds of one
  image of {'×'.join(map(str, PAPER_SIZE))} pixels, RoI heads included.
- **The paper's AP** is what arXiv 2107.00641 reports of its own training, with the number of its table: box AP, and mask AP after the
  slash, in percent on COCO val2017. Nobody has reproduced these figures with the configs here.
- **Our AP** was measured with the config as it is: on COCO val2017, empty until someone trains it; for the configs of generated shapes
  on 300 held-out images, where [results](results.md) has the commands. No weights are released.

The rows of Tables {names['table']} with {names['backbone']} ({names['method']}) are left out, since no library has ViL.
"""]
    for collection in metafile['Collections']:
        lines.append(f'\n## {collection["Name"]}\n\n[{collection["Paper"]["Title"]}]({collection["Paper"]["URL"]})\n\n'
                     '| config | parameters, M | GFLOPs | the paper\'s AP | our AP |\n| --- | --- | --- | --- | --- |\n')
        for model in metafile['Models']:
            if model['In Collection'] == collection['Name']:
                lines.append(document_row(model))
    return ''.join(lines)


def document_row(model):
    metadata, paper = model['Metadata'], model.get('Paper Results', {})
    ours = {name: value for result in model.get('Results', ()) for name, value in result['Metrics'].items()}
    cells = [f'[{model["Name"]}](../{model["Config"]})']
    for key, unit, form in (('Parameters', 1e6, '.2f'), ('FLOPs', 1e9, '.1f')):
        cells.append(f'{metadata[key] / unit:{form}}' if key in metadata else '')
    for figures, source in ((paper, f' (Table {paper.get("Table")})'), (ours, '')):
        aps = ' / '.join(f'{figures[name]:.1f}' for name in ('box AP', 'mask AP') if name in figures)
        cells.append(f'{aps}{source}' if aps else '')
    return f'| {" | ".join(cells)} |\n'


def to_yaml(metafile: dict) -> str:
    return HEADER + dump(metafile, file_format='yaml', sort_keys=False, width=130)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('complexity', nargs='*', metavar='FILE.json', help='of tools/benchmark.py complexity CONFIG… --out')
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
