"""The report as one HTML page, which asks nothing of any network."""

from collections import defaultdict
from collections.abc import Iterator
from html import escape
from pathlib import Path

from mmfocal.benchmark.paper import plots

COMPARED = ('ResNet', 'Swin')  # the gains are over these
METRIC_NAMES = {'box_ap': 'AP', 'miou': 'mIoU', 'pq': 'PQ', 'mask_ap': 'mask AP'}


def page(report: dict) -> str:
    """The page; every word of it that comes from a file is escaped."""
    style, script = (Path(__file__).with_suffix(suffix).read_text() for suffix in ('.css', '.js'))
    body = ''.join(
        part for make in (paper_parts, shapes_parts, curve_parts, other_parts, run_parts) for part in make(report)
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>Benchmark: {escape(report['folder'])}</title>
<style>
{style}</style>
</head>
<body>
<header>
<button id="theme" type="button">light / dark</button>
<h1>Focal Transformers across detector families</h1>
<p class="lead">{escape(report['folder'])} · {escape(report['made'])} · {len(report['runs'])} {'run' if len(report['runs']) == 1 else 'runs'}</p>
</header>
<main>
{body}</main>
<footer>Parameters and FLOPs (1 = one multiply-add) are counted by mmfocal. Metrics are in percent, of the test after training or else of the last
validation. The paper’s figures are those of arXiv 2107.00641 and, of ADE20K, its authors’ README: nobody measured them here.</footer>
<script>
{script}</script>
</body>
</html>
"""


def heading(part: dict) -> str:
    return 'ADE20K' if part['table'] == 'ADE20K' else f'Table {escape(part["table"])}'


def paper_parts(report: dict) -> Iterator[str]:
    for part in report['tables']:
        rows = [row for group in part['groups'] for row in group['rows']]
        done, cells = sum(bool(row['run']) for row in rows), sum(bool(row['config']) for row in rows)
        yield f'<section><h2>{heading(part)} of the paper</h2>\n'
        yield f'<p>{done} of {cells} cells measured here as the paper has them. <b>ours</b> stands beside <i class="paper">the paper’s</i>; '
        yield '± is ours against it, in points, and in per cent for parameters and FLOPs.</p>\n'
        for group in part['groups']:
            yield table(group, True)
            yield figures(group, True)
        yield '</section>\n'


def shapes_parts(report: dict) -> Iterator[str]:
    for part in report['shapes']:
        yield f'<section><h2>The methods of {heading(part)} on generated shapes</h2>\n'
        yield '<p class="caution">Small backbones on small drawn images: this shows that everything works, and nothing here may be compared '
        yield 'with the paper’s figures.</p>\n'
        for group in part['groups']:
            yield table(group, False)
            yield figures(group, False)
        yield '</section>\n'


def table(group: dict, beside_paper: bool) -> str:
    """A table as the paper prints it, sortable by each column."""
    from mmfocal.benchmark.paper.report import cells_of

    columns = group['columns']
    span = 3 if beside_paper else 1
    names = ''.join(
        f'<th class="group" colspan="{span}" scope="colgroup">{sub(column["name"])}</th>' for column in columns
    )
    heads = [('ours', 'ours'), ('paper', 'paper'), ('±', 'gap')] if beside_paper else []
    first = '<th class="text" scope="col">Method</th><th class="text" scope="col">Backbone</th>'
    if beside_paper:
        lower = ''.join(f'<th class="{kind}" scope="col">{head}</th>' for _ in columns for head, kind in heads)
        head = f'<tr class="over"><td colspan="2"></td>{names}<td></td></tr><tr>{first}{lower}<th class="text" scope="col"></th></tr>'
    else:
        head = f'<tr>{first}{"".join(f"""<th scope="col">{sub(column["name"])}</th>""" for column in columns)}<th class="text" scope="col"></th></tr>'
    lines, method = [], None
    for row in group['rows']:
        cells = []
        for column in columns:
            ours, paper, gap = cells_of(row, column['key'])
            cells.append(f'<td class="ours">{ours}</td>')
            if beside_paper:
                sign = (
                    'plus'
                    if gap.startswith('+') and gap.strip('+0. %')
                    else 'minus'
                    if gap.startswith('−') and gap.strip('−0. %')
                    else ''
                )
                sign = '' if column['key'] in ('params_m', 'flops_g') else sign
                cells.append(f'<td class="paper">{paper}</td><td class="gap {sign}">{gap}</td>')
        status = row['status'] or (
            'unfinished' if row['unfinished'] else f'latest of {row["of"]}' if row['of'] > 1 else ''
        )
        first = ' class="first"' if row['method'] != method else ''
        method = row['method']
        lines.append(
            f'<tr{first}><th class="text" scope="row">{escape(row["method"])}</th><td class="text">{swatch(row["backbone"])}'
            f'{escape(row["backbone"])}</td>{"".join(cells)}<td class="text status">{escape(status)}</td></tr>\n'
        )
    return f'<div class="scroll"><table class="sortable"><thead>{head}</thead>\n<tbody>{"".join(lines)}</tbody></table></div>\n'


def sub(name: str) -> str:
    """AP75 with its 75 lowered, as the paper has it."""
    for part in ('50', '75'):
        if name.endswith(f'AP{part}'):
            return f'{escape(name[:-2])}<sub>{part}</sub>'
    return f'AP<sub>{name[-1]}</sub>' if name in ('APS', 'APM', 'APL') else escape(name)


def swatch(backbone: str) -> str:
    return f'<span class="swatch {plots.family(backbone)}"></span>'


def figures(group: dict, beside_paper: bool) -> str:
    """A group's plots: the metric against FLOPs and latency, and gains."""
    metric, rows = group['metrics'][0] if group['metrics'] else None, group['rows']
    if not metric:
        return ''
    name = next(column['name'] for column in group['columns'] if column['key'] == metric)
    many = len({row['method'] for row in rows}) > 1
    series: dict[str, dict[str, list[tuple]]] = {'paper': defaultdict(list), 'ours': defaultdict(list)}
    latency = defaultdict(list)
    for row in rows:
        what, kind = row['method'] if many else row['backbone'], plots.family(row['backbone'])
        flops = row['ours'].get('flops_g')
        if metric in row['paper'] and (row['paper'].get('flops_g') or flops):
            series['paper'][kind].append((row['paper'].get('flops_g') or flops, row['paper'][metric], what))
        if row['run'] and metric in row['ours']:
            if flops:
                series['ours'][kind].append((flops, row['ours'][metric], what))
            if row['latency_ms']:
                latency[kind].append((row['latency_ms'], row['ours'][metric], what))
    devices = sorted({row['device'] for row in rows if row['latency_ms']})
    first = plots.scatter(series, 'GFLOPs', name, f'{name} against FLOPs')
    second = plots.scatter({'ours': latency}, 'ms an image', name, f'{name} against latency')
    third = plots.bars(gains(rows, metric), f'gain, points of {name}', 'gains of Focal Transformers')
    mixed = ' The devices differ: compare only points of one.' if len(devices) > 1 else ''
    parts = [
        figure(first, f'{name} against FLOPs', legend(rows, beside_paper)),
        figure(
            second,
            f'{name} against measured latency',
            f'Seconds of a test batch over its images, data loading included; {escape(", ".join(devices))}.{mixed}',
        ),
        figure(third, 'Gains of Focal over ResNet and Swin', gain_legend(beside_paper)),
    ]
    return f'<div class="figures">{"".join(parts)}</div>\n'


def gains(rows: list[dict], metric: str) -> list[tuple]:
    """What the smallest Focal Transformer adds to each method over its smallest ResNet and Swin."""
    found = []
    for method in dict.fromkeys(row['method'] for row in rows):
        smallest = {}
        for row in rows:
            if row['method'] == method:
                smallest.setdefault(plots.family(row['backbone']), row)
        over = {}
        for name in COMPARED:
            if 'Focal' in smallest and name in smallest:
                kinds = {
                    kind: smallest['Focal'][kind][metric] - smallest[name][kind][metric]
                    for kind in ('ours', 'paper')
                    if metric in smallest['Focal'][kind] and metric in smallest[name][kind]
                }
                over.update({name: kinds} if kinds else {})
        if over:
            found.append((method, over))
    return found


def figure(svg: str, title: str, caption: str) -> str:
    return f'<figure><h3>{escape(title)}</h3>{svg}<figcaption>{caption}</figcaption></figure>\n' if svg else ''


def legend(rows: list[dict], beside_paper: bool) -> str:
    kinds = dict.fromkeys(plots.family(row['backbone']) for row in rows)
    keys = ' '.join(f'<span class="key"><span class="swatch {kind}"></span>{kind}</span>' for kind in kinds)
    return f'{keys} {"Solid: ours. Dashed, hollow: the paper’s, at its FLOPs." if beside_paper else ""}'


def gain_legend(beside_paper: bool) -> str:
    keys = ' '.join(f'<span class="key"><span class="swatch {kind}"></span>over {kind}</span>' for kind in COMPARED)
    return f'{keys} {"Filled: ours. Hollow: the paper’s." if beside_paper else ""}'


def curve_parts(report: dict) -> Iterator[str]:
    """Small frames, one a method, of losses and validations."""
    backbones = {
        row['config']: row
        for part in (*report['tables'], *report['shapes'])
        for group in part['groups']
        for row in group['rows']
    }
    order = list(
        dict.fromkeys(
            (row['method'], row['config'] and row['config'].endswith('_shapes')) for row in backbones.values()
        )
    )
    methods = defaultdict(list)
    for run in report['runs']:
        row = backbones.get(run['config'])
        kind = (row['method'], run['config'].endswith('_shapes')) if row else ('Other runs', False)
        methods[kind].append((plots.family(row['backbone'] if row else ''), run))
    drawn = []
    for (method, shapes), found in sorted(
        methods.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)
    ):
        loss = [(kind, run['name'], run['curves']['loss']) for kind, run in found if len(run['curves']['loss']) > 1]
        metric = next((run['curves']['metric'] for _, run in found if run['curves']['metric']), None)
        val = [(kind, run['name'], run['curves']['validation']) for kind, run in found]
        head = f'{method}, shapes' if shapes else method
        svgs = (
            plots.curves(loss, 'iterations', 'loss', f'losses, {head}'),
            plots.curves(val, f'{found[0][1]["unit"]}s', METRIC_NAMES.get(metric, ''), f'validations, {head}'),
        )
        if any(svgs):
            drawn.append(
                f'<figure><h3>{escape(head)}</h3><div class="pair">{"".join(f"<div>{svg}</div>" for svg in svgs if svg)}</div></figure>\n'
            )
    if drawn:
        kinds = dict.fromkeys(kind for found in methods.values() for kind, _ in found)
        keys = ' '.join(f'<span class="key"><span class="swatch {kind}"></span>{kind}</span>' for kind in kinds)
        grey = ' Other runs are grey, whatever their backbone.' if ('Other runs', False) in methods else ''
        yield f'<section><h2>Training curves</h2><p>{keys}{grey}</p><div class="figures">{"".join(drawn)}</div></section>\n'


def other_parts(report: dict) -> Iterator[str]:
    if report['others']:
        yield '<section><h2>Runs that stand in no table</h2>\n<p>Their settings, data or length are not the paper’s, or its tables have no such '
        yield 'model: they are not set beside its figures.</p>\n'
        yield '<div class="scroll"><table class="sortable"><thead><tr><th class="text">Run</th><th class="text">Config</th><th>AP</th><th>mIoU</th>'
        yield '<th class="text">Why</th></tr></thead><tbody>\n'
        for other in report['others']:
            values = [other['figures'].get(key) for key in ('box_ap', 'miou')]
            cells = ''.join(f'<td>{"–" if value is None else f"{value:.1f}"}</td>' for value in values)
            yield f'<tr><th class="text" scope="row">{escape(other["run"])}</th><td class="text">{escape(other["config"])}</td>{cells}'
            yield f'<td class="text why">{escape("; ".join(other["why"]))}</td></tr>\n'
        yield '</tbody></table></div></section>\n'


def run_parts(report: dict) -> Iterator[str]:
    """How each run was made, and which files are damaged."""
    yield '<section><h2>All runs</h2>\n<div class="scroll"><table class="sortable"><thead><tr><th class="text">Run</th><th>done</th>'
    yield '<th>last</th><th>best</th><th>s/iteration</th><th>MiB</th><th>processes</th><th>batch</th><th>seed</th>'
    yield '<th class="text">device</th><th class="text">commit</th><th class="text">versions; --cfg-options</th></tr></thead><tbody>\n'
    for run in report['runs']:
        metric = run['curves']['metric']
        last, best = ((run[key] or {}).get(metric) for key in ('last', 'best'))
        done = '–' if run['done'] is None else f'{run["done"]:g}/{run["planned"] or "?"} {run["unit"]}s'
        values = [
            done,
            *('–' if value is None else f'{value:.1f}' for value in (last, best)),
            '–' if run['seconds_an_iteration'] is None else f'{run["seconds_an_iteration"]:.3g}',
            *('–' if run[key] is None else str(run[key]) for key in ('memory_mib', 'processes', 'batch', 'seed')),
        ]
        versions = '; '.join(
            filter(
                None,
                [
                    ', '.join(f'{name} {version}' for name, version in run['packages'].items()),
                    ' '.join(run['cfg_options']),
                ],
            )
        )
        device = run['gpu'] or ('CPU' if run['gpus'] == 0 else '–')
        yield f'<tr><th class="text" scope="row">{escape(run["name"])}</th>{"".join(f"<td>{escape(value)}</td>" for value in values)}'
        yield f'<td class="text">{escape(device)}</td><td class="text">{escape(run["commit"] or "–")}</td>'
        yield f'<td class="text why">{escape(versions)}</td></tr>\n'
    yield '</tbody></table></div>\n<p>last, best: AP, or mIoU in segmentation, of the last and the best validation. s/iteration: the median of the '
    yield 'logged ones. MiB: peak memory, of the GPU or else of the process.</p>\n'
    failed = [f'{run["name"]} failed: {run["failed"]}' for run in report['runs'] if run['failed']]
    if failed or report['notes']:
        yield '<h3>Failures and damaged files</h3><ul class="notes">'
        yield ''.join(f'<li>{escape(note)}</li>' for note in [*failed, *report['notes']]) + '</ul>\n'
    yield '</section>\n'
