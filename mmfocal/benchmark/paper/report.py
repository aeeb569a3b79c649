"""`tools/benchmark.py report`: one page of what was measured beside the paper's tables, as HTML, Markdown, CSV and JSON."""

import argparse
import csv
import json
import time
from pathlib import Path

from mmengine import load

from mmfocal.benchmark.paper.collect import collect, figures
from mmfocal.benchmark.paper.comparable import objections
from mmfocal.benchmark.paper.page import page
from mmfocal.benchmark.paper.tables import paper_rows, shapes_rows, table_rows
from mmfocal.errors import ConfigError

METRICS = {  # as the paper heads them, in its order
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `tools/benchmark.py report`."""
    parser.add_argument('folder', metavar='DIR', help='searched for work directories, as by collect')
    parser.add_argument(
        '--table', nargs='+', metavar='N', help='3, 4, 5, ADE20K (default: those that the runs belong to)'
    )
    parser.add_argument('--out', metavar='FOLDER', help='for report.html, .md, .csv and .json (default: DIR)')


def main(args: argparse.Namespace) -> None:
    """Collects, compares, and writes the four files.

    Args:
        args (argparse.Namespace): Of `add_arguments`, and `configs`, the folder with the configs and their metafile.

    Raises:
        ConfigError: If an argument cannot work.
        MissingFileError: If there is no work directory in the folder.
    """
    report = make_report(args.folder, args.configs, args.table)
    folder = Path(args.out or args.folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / 'report.html').write_text(page(report))
        (folder / 'report.md').write_text(markdown(report))
        (folder / 'report.json').write_text(json.dumps(report, indent=1, ensure_ascii=False) + '\n')
        with open(folder / 'report.csv', 'w', newline='') as stream:
            csv.writer(stream).writerows(csv_rows(report))
    except OSError as error:
        raise ConfigError(f'--out: {error.filename} cannot be written: {error.strerror}') from None
    for name in ('html', 'md', 'csv', 'json'):
        print(folder / f'report.{name}')


def make_report(folder: str, configs: Path, tables: list[str] | None = None) -> dict:
    """Everything that the four files show.

    Args:
        folder (str): With work directories.
        configs (Path): The folder with the configs and their metafile.
        tables (List[str], optional): Of the paper. Defaults to None: those that the runs belong to, Table 5 if there are none.

    Returns:
        dict: `tables`, the paper's with our figures beside them; `shapes`, the same methods on the generated shapes, without the paper's;
            `others`, runs that are in neither, or differ from the paper's, and why; `runs`; `notes`.

    Raises:
        ConfigError: If there is no such table.
    """
    runs, notes = collect(folder)
    names = {run['config'] for run in runs}
    known = [str(table) for table in dict.fromkeys(row['table'] for row in paper_rows())]
    if not tables:
        tables = [table for table in known if names & {row['config'] for row in table_rows(table) if row['config']}]
        tables = tables or [table for table in known if any(run_is_of(run, table) for run in runs)] or ['5']
    costs = {model['Name']: model['Metadata'] for model in load(configs / 'metafile.yml')['Models']}
    why = {}
    papers = [
        dict(table=table, groups=groups([paper_row(row, runs, costs, configs, why) for row in table_rows(table)]))
        for table in tables
    ]
    shapes = []
    for table in tables:
        rows = [shapes_row(row, runs, costs) for row in shapes_rows(table)]
        if any(row['run'] for row in rows):
            shapes.append(dict(table=table, groups=groups(rows)))
    shown = {row['run'] for part in (*papers, *shapes) for group in part['groups'] for row in group['rows']}
    others = [
        dict(
            run=run['name'],
            config=run['config'],
            figures=figures(run),
            why=why.get(run['name'], ['in no table shown here']),
        )
        for run in runs
        if run['name'] not in shown
    ]
    for run in runs:
        run['settings'] = None  # long, and of no more use
    return dict(
        made=time.strftime('%Y-%m-%d %H:%M %Z'),
        folder=Path(folder).resolve().name,
        tables=papers,
        shapes=shapes,
        others=others,
        runs=runs,
        notes=notes,
    )


def run_is_of(run: dict, table: str) -> bool:
    """Whether a run on the shapes has one of a table's methods."""
    return any(run['config'] == row['config'] for row in shapes_rows(table))


def paper_row(row: dict, runs: list[dict], costs: dict, configs: Path, why: dict) -> dict:
    """A row of the paper's, with our figures where a run is comparable; `why` gets the reasons of those that are not."""
    comparable = []
    for run in runs:
        if run['config'] == row['config']:
            found = objections(run, row, configs)
            if found:
                why[run['name']] = found
            else:
                comparable.append(run)
    begun = [run['name'] for run in runs if run['config'] == row['config']]
    status = (
        'no library has it' if not row['config'] else '' if comparable else 'not comparable' if begun else 'missing'
    )
    if not comparable and any(run['failed'] for run in runs if run['name'] in begun):
        status = 'failed'
    return merged(row, comparable, costs, status, {key: row[key] for key in (*COSTS, *METRICS) if key in row})


def shapes_row(row: dict, runs: list[dict], costs: dict) -> dict:
    """A row with a small backbone: the paper has nothing like it."""
    found = [run for run in runs if run['config'] == row['config']]
    status = (
        ''
        if any(figures(run) for run in found)
        else 'failed'
        if any(run['failed'] for run in found)
        else 'no validation yet'
        if found
        else 'missing'
    )
    return merged(row, found, costs, status, {})


def merged(row, runs, costs, status, paper):
    run = max(runs, key=lambda run: (bool(figures(run)), run['done'] or 0, run['dates'])) if runs else None
    counted = costs.get(row['config'], {})
    ours = {
        key: counted[name] / unit
        for key, name, unit in (('params_m', 'Parameters', 1e6), ('flops_g', 'FLOPs', 1e9))
        if name in counted
    }
    if run:
        ours.update({key: value for key, value in figures(run).items() if key in METRICS})
    latency = run and run['seconds_a_test_batch'] and 1e3 * run['seconds_a_test_batch'] / (run['test_batch'] or 1)
    return dict(
        method=row['method'],
        backbone=row['backbone'],
        config=row['config'],
        status=status,
        ours=ours,
        paper=paper,
        run=run and run['name'],
        unfinished=bool(run and run['planned'] and (run['done'] or 0) < run['planned']),
        latency_ms=latency or None,
        device=run and (run['gpu'] or 'CPU'),
        of=len(runs),
    )


def groups(rows: list[dict]) -> list[dict]:
    """Rows that have the same metrics, as the paper sets them in one table: Table 4 has one for RetinaNet and one for Mask R-CNN."""
    found = {}
    for row in rows:
        found.setdefault(row['method'], []).append(row)
    tables = []
    for rows in found.values():
        metrics = [key for key in METRICS if any(key in row['paper'] or key in row['ours'] for row in rows)]
        if any(row['paper'] for row in rows):
            metrics = [key for key in metrics if any(key in row['paper'] for row in rows)]
        if tables and (tables[-1]['metrics'] == metrics or not any(row['paper'] for row in rows)):
            tables[-1]['rows'] += rows
            tables[-1]['metrics'] = [key for key in METRICS if key in {*tables[-1]['metrics'], *metrics}]
        else:
            tables.append(dict(metrics=metrics, rows=rows))
    for table in tables:
        table['columns'] = [
            dict(key=key, name=name) for key, name in {**COSTS, **METRICS}.items() if key in (*COSTS, *table['metrics'])
        ]
    return tables


def difference(row: dict, key: str) -> float | None:
    """Ours against the paper's: points of a metric, per cent of a cost; None where one of them is missing."""
    ours, paper = row['ours'].get(key), row['paper'].get(key)
    if ours is None or not paper:
        return None
    return 100 * (ours / paper - 1) if key in COSTS else ours - paper


def title(part: dict) -> str:
    return "ADE20K, of the authors' README" if part['table'] == 'ADE20K' else f'Table {part["table"]}'


def markdown(report: dict) -> str:
    """The tables for a repository's page."""
    lines = [
        '# Benchmark',
        '',
        f'{plain(report["folder"])}, {report["made"]}. "paper": what arXiv 2107.00641 reports, not measured here; '
        '± is ours against it, points, and per cent of parameters and FLOPs.',
        '',
    ]
    for part in report['tables']:
        lines += [f'## {title(part)}', '']
        for group in part['groups']:
            heads = [head for column in group['columns'] for head in (column['name'], 'paper', '±')]
            lines += ['| method | backbone | ' + ' | '.join(heads) + ' | |', '| --- ' * (len(heads) + 3) + '|']
            for row in group['rows']:
                cells = [cell for column in group['columns'] for cell in cells_of(row, column['key'])]
                lines.append(
                    f'| {plain(row["method"])} | {plain(row["backbone"])} | {" | ".join(cells)} | {row["status"]} |'
                )
            lines.append('')
    for part in report['shapes']:
        lines += [
            f'## The methods of {title(part)} on generated shapes',
            '',
            "Small backbones on drawn images: nothing here may be compared with the paper's figures.",
            '',
        ]
        for group in part['groups']:
            lines += [
                '| method | backbone | ' + ' | '.join(column['name'] for column in group['columns']) + ' | |',
                '| --- ' * (len(group['columns']) + 3) + '|',
            ]
            lines += [
                f'| {plain(row["method"])} | {plain(row["backbone"])} | '
                f'{" | ".join(cells_of(row, column["key"])[0] for column in group["columns"])} | {row["status"]} |'
                for row in group['rows']
            ]
            lines.append('')
    if report['others']:
        lines += ['## Runs that are not comparable with the paper', '']
        lines += [
            f'- {plain(other["run"])} ({plain(other["config"])}): {plain("; ".join(other["why"]))}'
            for other in report['others']
        ] + ['']
    if report['notes']:
        lines += ['## Damaged files', '', *(f'- {plain(note)}' for note in report['notes']), '']
    return '\n'.join(lines)


def cells_of(row: dict, key: str) -> list[str]:
    """Ours, the paper's, and the difference, as text."""
    ours, paper, gap = row['ours'].get(key), row['paper'].get(key), difference(row, key)
    digits = {'params_m': 1, 'flops_g': 0 if (ours or 100) >= 100 else 1}.get(key, 1)
    return [
        '–' if ours is None else f'{ours:.{digits}f}',
        '–' if paper is None else f'{paper:.{digits}f}',
        '–' if gap is None else f'{gap:+.1f}{" %" if key in COSTS else ""}'.replace('-', '−'),
    ]


def plain(text: str) -> str:
    """Text that is no Markdown and no HTML."""
    return ''.join(
        f'\\{letter}' if letter in '\\`*_[]|#<>&!~' else ' ' if letter in '\r\n' else letter for letter in str(text)
    )


def csv_rows(report: dict) -> list[list]:
    """A line for each row of each table; the paper's figures in columns that say so."""
    keys = [*COSTS, *METRICS]
    rows = [
        [
            'table',
            'data',
            'method',
            'backbone',
            'config',
            'status',
            'run',
            'latency_ms',
            'device',
            *keys,
            *(f'paper_{key}' for key in keys),
        ]
    ]
    for kind, parts in (("paper's", report['tables']), ('shapes', report['shapes'])):
        for part in parts:
            for row in (row for group in part['groups'] for row in group['rows']):
                rows.append(
                    [
                        part['table'],
                        kind,
                        row['method'],
                        row['backbone'],
                        row['config'],
                        row['status'],
                        row['run'],
                        row['latency_ms'],
                        row['device'],
                        *(row['ours'].get(key) for key in keys),
                        *(row['paper'].get(key) for key in keys),
                    ]
                )
    for other in report['others']:
        rows.append(
            [
                '',
                'not comparable',
                '',
                '',
                other['config'],
                '; '.join(other['why']),
                other['run'],
                '',
                '',
                *(other['figures'].get(key) for key in keys),
                *('' for _ in keys),
            ]
        )
    return [[harmless(cell) for cell in row] for row in rows]


def harmless(cell):
    """Spreadsheets run text that begins so."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ('=', '+', '-', '@', '\t', '\r') else cell
