"""The paper's tables (arXiv 2107.00641) and the config of each row; none of their figures is this project's."""

from pathlib import Path

from mmengine import load

from mmfocal.errors import ConfigError

METHODS = {
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
NANO_BACKBONES = {
    'ResNet-nano': 'r_nano',
    'Swin-nano': 'swin_nano',
    'ViL-nano': 'vil_nano',
    'Focal-nano': 'focal_nano',
}  # for the generated shapes

DETECTION_SIZE, SEGMENTATION_SIZE = (
    (1280, 800),
    (2048, 512),
)  # width and height of the images that FLOPs are counted for


def paper_rows(task: str | None = None) -> list[dict]:
    """Returns the rows of Tables 3, 4 and 5, and of ADE20K in the authors' README.

    Args:
        task: 'detection' or 'segmentation'; None for both.

    Returns:
        Rows as in paper_results.yaml, with `config`, the name of the row's config, and `size`, width and height of the
        image that its FLOPs are counted for.
    """
    tasks = (task,) if task else ('detection', 'segmentation')
    rows = [row for row in load(Path(__file__).with_name('paper_results.yaml')) if row['task'] in tasks]
    for row in rows:
        backbone, data = BACKBONES[row['backbone']], '_ade20k' if row['table'] == 'ADE20K' else ''
        row['config'] = f'{METHODS[row["method"]]}_{backbone}_{row["schedule"]}{data}'
        row['size'] = (4 * row['crop'], row['crop']) if 'crop' in row else DETECTION_SIZE
    return rows


def table_rows(table: str) -> list[dict]:
    """Returns the rows of one table, in its order.

    Args:
        table: Its number in the paper, or ADE20K.

    Raises:
        ConfigError: If no configs belong to it.
    """
    rows = paper_rows()
    tables = sorted({str(row['table']) for row in rows})
    if table not in tables:
        raise ConfigError(f'--table {table}: no such table with configs; choose from {", ".join(tables)}')
    return [row for row in rows if str(row['table']) == table]


def shapes_rows(table: str) -> list[dict]:
    """Returns a table's methods with small backbones of its families, for the generated shapes.

    Args:
        table: As for `table_rows`.

    Returns:
        Rows with `table`, `task`, `method`, `backbone` and `config`, without figures.

    Raises:
        ConfigError: As `table_rows`.
    """
    rows = table_rows(table)
    families = {row['backbone'].split('-')[0] for row in rows}
    return [
        dict(
            table=rows[0]['table'],
            task=rows[0]['task'],
            method=method,
            backbone=backbone,
            config=f'{METHODS[method]}_{name}_shapes',
        )
        for method in dict.fromkeys(row['method'] for row in rows)
        for backbone, name in NANO_BACKBONES.items()
        if backbone.split('-')[0] in families
    ]


def row_of(config: str) -> dict | None:
    """Returns the row of a config, given its name without `.py`; None if it is in no table."""
    return next((row for row in paper_rows() if row['config'] == config), None)


def image_size(config: str, scope: str) -> tuple[int, int]:
    """Returns width and height of the image that a config's FLOPs are counted for.

    Args:
        config: Its name, without `.py`.
        scope: Its default_scope.

    Returns:
        The size of its row, or else of the paper's detectors, or of its segmentors at 512 pixels.
    """
    row = row_of(config)
    return row['size'] if row else SEGMENTATION_SIZE if scope == 'mmseg' else DETECTION_SIZE
