"""Writes what was measured beside the paper's tables, as HTML, Markdown, CSV and JSON."""

import argparse
import csv
import json
import time
from pathlib import Path
from typing import Any

from mmengine import load

from mmfocal.benchmark.paper.cells import COSTS, METRICS
from mmfocal.benchmark.paper.collect import collect, figures
from mmfocal.benchmark.paper.comparable import objections
from mmfocal.benchmark.paper.page import render_html, render_markdown
from mmfocal.benchmark.paper.tables import row_of, shapes_rows, table_names, table_rows
from mmfocal.errors import ConfigError

CSV_COLUMNS = ('table', 'data', 'method', 'backbone', 'config', 'status', 'run', 'latency_ms', 'device')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `tools/benchmark.py report`."""
    parser.add_argument('folder', metavar='DIR', help='is searched for work directories, as by collect')
    parser.add_argument(
        '--table',
        nargs='+',
        metavar='N',
        help='2, 3, 4, 5, 8, 9, 10, ADE20K (default: the tables that the runs belong to)',
    )
    parser.add_argument('--out', metavar='FOLDER', help='gets report.html, .md, .csv and .json (default: DIR)')


def main(args: argparse.Namespace) -> None:
    """Collects, compares, and writes the four files.

    Args:
        args: Of `add_arguments`, and `configs`, the folder with the configs and their metafile.

    Raises:
        ConfigError: If there is no such table, or a file cannot be written.
        MissingFileError: If there is no work directory in the folder.
    """
    report = make_report(args.folder, args.configs, args.table)
    folder = Path(args.out or args.folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / 'report.html').write_text(render_html(report))
        (folder / 'report.md').write_text(render_markdown(report))
        (folder / 'report.json').write_text(json.dumps(report, indent=1, ensure_ascii=False) + '\n')
        write_csv(report, folder / 'report.csv')
    except OSError as error:
        raise ConfigError(f'--out {folder}: cannot write {error.filename}: {error.strerror}') from None
    for name in ('html', 'md', 'csv', 'json'):
        print(folder / f'report.{name}')


def make_report(folder: str, configs: Path, tables: list[str] | None = None) -> dict:
    """Compares all runs in a folder with the paper's tables.

    Args:
        folder: Has work directories.
        configs: The folder with the configs and their metafile.
        tables: Of the paper; None for those that the runs belong to, Table 5 if there are none.

    Returns:
        `tables`, the paper's with our figures; `shapes`, the same methods on the generated shapes; `others`, runs that
        are in neither or differ from the paper's, with the reasons; `runs`; `notes` on damaged files.

    Raises:
        ConfigError: If there is no such table.
    """
    runs, notes = collect(folder)
    names = {run['config'] for run in runs}
    known = table_names()
    if not tables:
        belong_to = {table_of(run) for run in runs}
        tables = [table for table in known if table in belong_to]
        tables = tables or [table for table in known if names & {row['config'] for row in shapes_rows(table)}] or ['5']
    costs = {model['Name']: model['Metadata'] for model in load(configs / 'metafile.yml')['Models']}
    why: dict[str, list[str]] = {}
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
    reason = ['not in the tables shown here']
    others = [
        dict(run=run['name'], config=run['config'], figures=figures(run), why=why.get(run['name'], reason))
        for run in runs
        if run['name'] not in shown
    ]
    for run in runs:
        run['settings'] = None  # long, and not shown
    return dict(
        made=time.strftime('%Y-%m-%d %H:%M %Z'),
        folder=Path(folder).resolve().name,
        tables=papers,
        shapes=shapes,
        others=others,
        runs=runs,
        notes=notes,
    )


def table_of(run: dict) -> str | None:
    """Returns the table that a run belongs to: that of `run --table`, or else the first that has its config."""
    row = row_of(run['config'])
    return None if row is None else run['table'] or str(row['table'])


def paper_row(row: dict, runs: list[dict], costs: dict, configs: Path, why: dict) -> dict:
    """Adds our figures to a row of the paper's if a run is comparable; `why` gets the reasons of runs that are not."""
    comparable, others = [], []
    for run in (run for run in runs if run['config'] == row['config']):
        reasons = objections(run, row, configs)
        if reasons:
            why[run['name']] = reasons
        (others if reasons else comparable).append(run)
    status = ''
    if not comparable:
        failed = any(run['failed'] for run in others)
        status = 'failed' if failed else 'not comparable' if others else 'missing'
    return merged(row, comparable, costs, status, {key: row[key] for key in (*COSTS, *METRICS) if key in row})


def shapes_row(row: dict, runs: list[dict], costs: dict) -> dict:
    """Adds our figures to a row with a small backbone, which the paper does not have."""
    found = [run for run in runs if run['config'] == row['config']]
    status = ''
    if not any(figures(run) for run in found):
        failed = any(run['failed'] for run in found)
        status = 'failed' if failed else 'no validation yet' if found else 'missing'
    return merged(row, found, costs, status, {})


def merged(row: dict, runs: list[dict], costs: dict, status: str, paper: dict) -> dict:
    """Returns a row with the figures of its newest run that got furthest."""
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
    """Groups rows with the same metrics, as the paper does: Table 4 is one for RetinaNet and one for Mask R-CNN."""
    found: dict[str, list[dict]] = {}
    for row in rows:
        found.setdefault(row['method'], []).append(row)
    tables: list[dict] = []
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


def write_csv(report: dict, path: Path) -> None:
    """Writes a line per row of each table and per run in none; the paper's figures are in columns named paper_…."""
    figure_names = [*COSTS, *METRICS]
    lines = []
    for kind, parts in (("paper's", report['tables']), ('shapes', report['shapes'])):
        for part in parts:
            for row in (row for group in part['groups'] for row in group['rows']):
                paper = {f'paper_{key}': value for key, value in row['paper'].items()}
                lines.append({**row, 'table': part['table'], 'data': kind, **row['ours'], **paper})
    for other in report['others']:
        lines.append({**other, 'data': 'not comparable', 'status': '; '.join(other['why']), **other['figures']})
    names = [*CSV_COLUMNS, *figure_names, *(f'paper_{key}' for key in figure_names)]
    with open(path, 'w', newline='') as stream:
        writer = csv.DictWriter(stream, names, extrasaction='ignore')
        writer.writeheader()
        for line in lines:
            writer.writerow({name: harmless(value) for name, value in line.items()})


def harmless(cell: Any) -> Any:
    """Quotes text that a spreadsheet would run as a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ('=', '+', '-', '@', '\t', '\r') else cell
