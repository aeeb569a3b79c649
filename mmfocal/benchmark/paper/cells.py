"""The report's figures as text, and how ours differ from the paper's."""

from typing import Any

from mmfocal.visualization.pages import format_number

METRICS = {  # with the paper's headings, in its order
    'top1': 'top-1',
    'box_ap': 'AP',
    'box_ap50': 'AP50',
    'box_ap75': 'AP75',
    'box_ap_s': 'APS',
    'box_ap_m': 'APM',
    'box_ap_l': 'APL',
    'mask_ap': 'mask AP',
    'mask_ap50': 'mask AP50',
    'mask_ap75': 'mask AP75',
    'miou': 'mIoU',
    'miou_ms': 'mIoU (MS)',
}
COSTS = {'params_m': '#Params, M', 'flops_g': 'FLOPs, G'}


def difference(row: dict[str, Any], key: str) -> float | None:
    """Returns ours less the paper's, in points of a metric or percent of a cost; None if one of them is missing."""
    ours, paper = row['ours'].get(key), row['paper'].get(key)
    if ours is None or not paper:
        return None
    return 100 * (ours / paper - 1) if key in COSTS else ours - paper


def cells_of(row: dict[str, Any], key: str) -> list[str]:
    """Formats ours, the paper's and the difference."""
    ours, paper, gap = row['ours'].get(key), row['paper'].get(key), difference(row, key)
    digits = 0 if key == 'flops_g' and (ours or 100) >= 100 else 1
    return [
        format_number(ours, f'.{digits}f'),
        format_number(paper, f'.{digits}f'),
        '–' if gap is None else f'{gap:+.1f}{" %" if key in COSTS else ""}'.replace('-', '−'),
    ]
