"""The paper's tables (arXiv 2107.00641) and the config of each row; none of their figures is this project's."""

from pathlib import Path

from mmengine import load

from mmfocal.errors import ConfigError

METHODS = {
    'Classifier': 'classifier',
    'Cascade Mask R-CNN': 'cascade_mask_rcnn',
    'ATSS': 'atss',
    'RepPointsV2': 'reppointsv2',
    'Sparse R-CNN': 'sparse_rcnn',
    'RetinaNet': 'retinanet',
    'Mask R-CNN': 'mask_rcnn',
    'UPerNet': 'upernet',
}
BACKBONES = {
    'ResNet-50': 'r50',
    'ResNet-101': 'r101',
    'ResNeXt101-32x4d': 'x101_32x4d',
    'ResNeXt101-64x4d': 'x101_64x4d',
    **{
        f'{family}-{size}': f'{family}_{size}'.lower()
        for family, sizes in (
            ('PVT', ('Small', 'Medium', 'Large')),
            ('ViL', ('Small', 'Medium', 'Base')),
            ('Swin', ('Tiny', 'Small', 'Base')),
            ('Focal', ('Tiny', 'Small', 'Base', 'Large')),
        )
        for size in sizes
    },
}
CLASSIFIERS = {  # backbones of Table 2 whose names in configs are those of MMPretrain
    **{f'ResNet-{depth}': f'resnet{depth}' for depth in (50, 101, 152)},
    **{f'DeiT-{size}/16': f'deit_{size.lower()}' for size in ('Small', 'Base')},
    'ViT-Base/16': 'vit_base',
    'CvT-13': 'cvt_13',
    'CvT-21': 'cvt_21',
}
NANO_BACKBONES = {
    'ResNet-nano': 'r_nano',
    'Swin-nano': 'swin_nano',
    'ViL-nano': 'vil_nano',
    'Focal-nano': 'focal_nano',
}  # for the generated shapes

# Width and height of the images that FLOPs are counted for.
CLASSIFICATION_SIZE, DETECTION_SIZE, SEGMENTATION_SIZE = (224, 224), (1280, 800), (2048, 512)
# What is trained and tested on which images; the ablations' rows have a classifier and a Mask R-CNN.
CLASSIFICATION = dict(task='classification', dataset='ImageNet-1K', method='Classifier', schedule='300e')
DETECTION = dict(task='detection', dataset='COCO val2017', method='Mask R-CNN', schedule='1x')
ABLATIONS = {  # column of Tables 8, 9 and 10 → (label, suffix of the name in configs) of a family's value
    'window_size': lambda family, size: (f'window {size}', '' if size == 7 else f'_window{size}'),
    'use_shift': lambda family, shift: (
        ('with shift' if shift else 'without shift'),
        '' if shift == (family == 'Swin') else '_shift' if shift else '_no_shift',
    ),
    'depths': lambda family, depths: (
        f'depths {depths}',
        '' if depths == '2-2-6-2' else f'_depths{depths.replace("-", "")}',
    ),
}


def paper_rows(task: str | None = None) -> list[dict]:
    """Returns the rows of Tables 2 to 5 and 8 to 10, and of ADE20K in the authors' README.

    A row of an ablation (Tables 8 to 10) becomes two: its classifier and its Mask R-CNN. Rows that ablations share with
    other tables come with each of them.

    Args:
        task: 'classification', 'detection' or 'segmentation'; None for all.

    Returns:
        Rows as in paper_results.yaml, with `name`, of the backbone in configs, `config`, the name of the row's config,
        and `size`, width and height of the image that its FLOPs are counted for; `backbone` names an ablation's value
        too. An ablation's Mask R-CNN has `pretraining`, its classifier's config, unless its weights are downloaded.
    """
    rows = [
        one
        for row in load(Path(__file__).with_name('paper_results.yaml'))
        for one in (_ablation_rows(row) if row['task'] == 'ablation' else [_row(row)])
    ]
    return [row for row in rows if task in (None, row['task'])]


def _row(row: dict) -> dict:
    """Completes a row."""
    if row['task'] == 'classification':
        row = {**row, **CLASSIFICATION}
    names = {**BACKBONES, **(CLASSIFIERS if row['task'] == 'classification' else {})}
    name = row.get('name') or names[row['backbone']]
    size = CLASSIFICATION_SIZE if row['task'] == 'classification' else DETECTION_SIZE
    return dict(
        row,
        name=name,
        config=_config(row, name),
        size=(4 * row['crop'], row['crop']) if 'crop' in row else size,
    )


def _config(row: dict, name: str) -> str:
    if row['task'] == 'classification':
        return f'{name}_{row["schedule"]}_imagenet'
    return f'{METHODS[row["method"]]}_{name}_{row["schedule"]}{"_ade20k" if row["table"] == "ADE20K" else ""}'


def _ablation_rows(row: dict) -> list[dict]:
    """Returns an ablation's classifier, which has the row's costs, and its Mask R-CNN."""
    backbone = row['backbone'] if '-' in row['backbone'] else f'{row["backbone"]}-Tiny'
    label, suffix = next(name_of(backbone.split('-')[0], row[key]) for key, name_of in ABLATIONS.items() if key in row)
    common = dict(table=row['table'], backbone=f'{backbone}, {label}', name=BACKBONES[backbone] + suffix)
    figures = {key: row[key] for key in ('params_m', 'flops_g', 'top1', 'box_ap', 'mask_ap') if key in row}
    aps = {key: figures.pop(key) for key in ('box_ap', 'mask_ap')}
    classifier = _row({**CLASSIFICATION, **common, **figures})
    detector = _row({**DETECTION, **common, **aps})
    if common['name'] != 'swin_tiny':  # whose config downloads its authors' weights
        detector['pretraining'] = classifier['config']
    return [classifier, detector]


def table_names() -> list[str]:
    """Returns the names of the tables that `table_rows` knows."""
    tables = {str(row['table']) for row in paper_rows()}
    return sorted(tables, key=lambda table: (not table.isdecimal(), int(table) if table.isdecimal() else 0, table))


def table_rows(table: str) -> list[dict]:
    """Returns the rows of one table, in its order; of an ablation, the classifiers come first.

    Args:
        table: Its number in the paper, or ADE20K.

    Raises:
        ConfigError: If no configs belong to it.
    """
    tables = table_names()
    if table not in tables:
        raise ConfigError(f'--table {table}: no such table with configs; choose from {", ".join(tables)}')
    rows = [row for row in paper_rows() if str(row['table']) == table]
    return sorted(rows, key=lambda row: row['task'] != 'classification')


def shapes_rows(table: str) -> list[dict]:
    """Returns a table's methods with small backbones of its families, for the generated shapes.

    Args:
        table: As for `table_rows`.

    Returns:
        Rows with `table`, `task`, `method`, `backbone`, `name` and `config`, without figures; none for classifiers and
        ablations.

    Raises:
        ConfigError: As `table_rows`.
    """
    rows = table_rows(table)
    if rows[0]['task'] == 'classification':
        return []
    families = {row['backbone'].split('-')[0] for row in rows}
    return [
        dict(
            table=rows[0]['table'],
            task=rows[0]['task'],
            method=method,
            backbone=backbone,
            name=name,
            config=f'{METHODS[method]}_{name}_shapes',
        )
        for method in dict.fromkeys(row['method'] for row in rows)
        for backbone, name in NANO_BACKBONES.items()
        if backbone.split('-')[0] in families
    ]


def row_of(config: str) -> dict | None:
    """Returns the first row of a config, given its name without `.py`; None if it is in no table."""
    return next((row for row in paper_rows() if row['config'] == config), None)


def image_size(config: str, scope: str) -> tuple[int, int]:
    """Returns width and height of the image that a config's FLOPs are counted for.

    Args:
        config: Its name, without `.py`.
        scope: Its default_scope.

    Returns:
        The size of its row, or else of the paper's detectors, of its classifiers, or of its segmentors at 512 pixels.
    """
    row = row_of(config)
    sizes = dict(mmpretrain=CLASSIFICATION_SIZE, mmseg=SEGMENTATION_SIZE)
    return row['size'] if row else sizes.get(scope, DETECTION_SIZE)
