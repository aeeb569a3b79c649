"""The paper's tables (arXiv 2107.00641), and which config belongs to which row: other people's figures, never this project's."""
from pathlib import Path
from typing import Dict, List, Optional

from mmengine import load

from mmfocal.errors import ConfigError

METHODS = {
    'Cascade Mask R-CNN': 'cascade_mask_rcnn',
    'ATSS': 'atss',
    'RepPointsV2': 'reppointsv2',
    'Sparse R-CNN': 'sparse_rcnn',
    'RetinaNet': 'retinanet',
    'Mask R-CNN': 'mask_rcnn',
}
BACKBONES = {
    'ResNet-50': 'r50',
    'ResNet-101': 'r101',
    'ResNeXt101-32x4d': 'x101_32x4d',
    'ResNeXt101-64x4d': 'x101_64x4d',
    **{f'{family}-{size}': f'{family}_{size}'.lower()
       for family, sizes in (('PVT', ('Small', 'Medium', 'Large')), ('Swin', ('Tiny', 'Small', 'Base')),
                             ('Focal', ('Tiny', 'Small', 'Base'))) for size in sizes},
}


def detector_rows() -> List[dict]:
    """The rows of Tables 3, 4 and 5.

    Returns:
        List[dict]: As in paper_results.yaml, with `config`, the name of the row's config; None for ViL, which is in no library.
    """
    rows = [row for row in load(Path(__file__).with_name('paper_results.yaml')) if row['task'] == 'detection']
    for row in rows:
        backbone = BACKBONES.get(row['backbone'])
        row['config'] = backbone and f'{METHODS[row["method"]]}_{backbone}_{row["schedule"]}'
    return rows


def table_rows(table: str) -> List[dict]:
    """The rows of one table, in its order.

    Args:
        table (str): Its number in the paper.

    Raises:
        ConfigError: If it is not one of the tables with detectors.
    """
    rows = detector_rows()
    tables = sorted({str(row['table']) for row in rows})
    if table not in tables:
        raise ConfigError(f'--table {table}: the paper\'s tables of detectors are {", ".join(tables)}')
    return [row for row in rows if str(row['table']) == table]


def row_of(config: str) -> Optional[Dict]:
    """The row that a config named so belongs to, `config` without `.py`; None if it is in no table."""
    return next((row for row in detector_rows() if row['config'] == config), None)
