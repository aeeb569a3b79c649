"""Renders the report as an HTML page, which needs no network, and as Markdown."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup, escape

from mmfocal.benchmark.paper import plots
from mmfocal.benchmark.paper.cells import COSTS, METRICS, cells_of
from mmfocal.visualization.pages import make_environment

COMPARED = ('ResNet', 'Swin')  # gains are over these
OTHER_RUNS = 'Other runs'
METRIC_NAMES = {**METRICS, 'pq': 'PQ'}


def render_html(report: dict[str, Any]) -> str:
    """Renders a report as a page; everything that comes from a file is escaped."""
    tables, shapes = (
        [dict(part, groups=[dict(group, **_figures(group)) for group in part['groups']]) for part in report[key]]
        for key in ('tables', 'shapes')
    )
    failures = [f'{run["name"]} failed: {run["failed"]}' for run in report['runs'] if run['failed']]
    return (
        _environment()
        .get_template('page.html.j2')
        .render(
            report=dict(report, tables=tables, shapes=shapes),
            curves=_curves(report),
            problems=[*failures, *report['notes']],
            compared=COMPARED,
        )
    )


def render_markdown(report: dict[str, Any]) -> str:
    """Renders a report's tables for a repository's page."""
    return _environment().get_template('page.md.j2').render(report=report)


def _environment() -> Environment:
    environment = make_environment(Path(__file__).parent)
    environment.filters.update(
        cells=cells_of,
        family=plots.family,
        measured=_measured,
        plain=_plain,
        sign=_sign,
        status=_status,
        subscript=_subscript,
    )
    return environment


def _measured(part: dict[str, Any]) -> str:
    rows = [row for group in part['groups'] for row in group['rows']]
    return f'{sum(bool(row["run"]) for row in rows)} of {len(rows)}'


def _plain(text: str) -> str:
    """Escapes Markdown and HTML."""
    return ''.join(
        f'\\{letter}' if letter in '\\`*_[]|#<>&!~' else ' ' if letter in '\r\n' else letter for letter in str(text)
    )


def _sign(gap: str, key: str) -> str:
    """Returns the class of a difference in a metric: 'plus', 'minus' or '' for none."""
    if key in COSTS or not gap.strip('+−0. '):
        return ''
    return {'+': 'plus', '−': 'minus'}.get(gap[0], '')


def _status(row: dict[str, Any]) -> str:
    if row['status'] or row['unfinished']:
        return row['status'] or 'unfinished'
    return f'latest of {row["of"]}' if row['of'] > 1 else ''


def _subscript(name: str) -> str:
    """Sets AP75's 75 and APS's S as a subscript, as the paper does."""
    for part in ('50', '75', 'S', 'M', 'L'):
        if name.endswith(f'AP{part}'):
            return escape(name.removesuffix(part)) + Markup('<sub>{}</sub>').format(part)
    return name


def _figures(group: dict[str, Any]) -> dict[str, Any]:
    """Draws the plots of a group: its first metric against FLOPs and latency, and gains."""
    if not group['metrics']:
        return {}
    rows, metric = group['rows'], group['metrics'][0]
    name = METRICS[metric]
    several = len({row['method'] for row in rows}) > 1
    series: dict[str, dict[str, list]] = {'paper': defaultdict(list), 'ours': defaultdict(list)}
    latency: dict[str, list] = defaultdict(list)
    for row in rows:
        label, family = row['method'] if several else row['backbone'], plots.family(row['backbone'])
        flops = row['ours'].get('flops_g')
        paper_flops = row['paper'].get('flops_g') or flops
        if metric in row['paper'] and paper_flops:
            series['paper'][family].append((paper_flops, row['paper'][metric], label))
        if row['run'] and metric in row['ours']:
            if flops:
                series['ours'][family].append((flops, row['ours'][metric], label))
            if row['latency_ms']:
                latency[family].append((row['latency_ms'], row['ours'][metric], label))
    return dict(
        metric=name,
        families=list(dict.fromkeys(plots.family(row['backbone']) for row in rows)),
        devices=sorted({row['device'] for row in rows if row['latency_ms']}),
        plots=dict(
            flops=plots.plot_scatter(series, 'GFLOPs', name, f'{name} against FLOPs'),
            latency=plots.plot_scatter({'ours': latency}, 'ms per image', name, f'{name} against latency'),
            gains=plots.plot_gains(_gains(rows, metric), f'gain, points of {name}', 'gains of Focal Transformers'),
        ),
    )


def _gains(rows: list[dict[str, Any]], metric: str) -> list[tuple[str, dict]]:
    """Returns what the smallest Focal Transformer of each method gains over its smallest ResNet and Swin."""
    smallest: dict[str, dict[str, dict]] = defaultdict(dict)
    for row in rows:
        smallest[row['method']].setdefault(plots.family(row['backbone']), row)
    found = []
    for method, by_family in smallest.items():
        over: dict[str, dict[str, float]] = defaultdict(dict)
        for name in COMPARED:
            for kind in ('ours', 'paper'):
                focal, other = (by_family.get(family, {}).get(kind, {}).get(metric) for family in ('Focal', name))
                if focal is not None and other is not None:
                    over[name][kind] = focal - other
        if over:
            found.append((method, dict(over)))
    return found


def _curves(report: dict[str, Any]) -> dict[str, Any]:
    """Draws losses and validations of all runs, a frame per method."""
    parts = (*report['tables'], *report['shapes'])
    rows = {row['config']: row for part in parts for group in part['groups'] for row in group['rows']}
    methods: dict[str, list[tuple[str, dict]]] = {
        _frame(row['method'], config): [] for config, row in rows.items() if config
    }
    methods[OTHER_RUNS] = []
    for run in report['runs']:
        row = rows.get(run['config'])
        frame = _frame(row['method'], run['config']) if row else OTHER_RUNS
        methods[frame].append((plots.family(row['backbone'] if row else ''), run))
    frames = []
    for title, found in methods.items():
        losses = [
            (family, run['name'], run['curves']['loss']) for family, run in found if len(run['curves']['loss']) > 1
        ]
        validations = [(family, run['name'], run['curves']['validation']) for family, run in found]
        metric = next((run['curves']['metric'] for _, run in found if run['curves']['metric']), None)
        unit = found[0][1]['unit'] if found else ''
        svgs = (
            plots.plot_curves(losses, 'iterations', 'loss', f'losses, {title}'),
            plots.plot_curves(validations, f'{unit}s', METRIC_NAMES.get(metric, ''), f'validations, {title}'),
        )
        if any(svgs):
            frames.append(dict(title=title, svgs=svgs))
    families = list(dict.fromkeys(family for found in methods.values() for family, _ in found))
    return dict(frames=frames, families=families, others=bool(methods[OTHER_RUNS]))


def _frame(method: str, config: str) -> str:
    return f'{method}, shapes' if config.endswith('_shapes') else method
