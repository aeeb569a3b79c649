"""Draws what a token of a Focal Transformer attends to, and where the attention of each stage goes.

The keys of the token are drawn on the image at their own size: tokens of its window and of the ring around it, and the
larger cells that were pooled. A second picture shows, for each block, how much of the attention goes to each kind of
keys and how far. The checkpoint is a detector's, a classifier's, a segmentor's or a backbone's. Of a classifier the
image is the crop that the network gets.
"""

import argparse
from pathlib import Path

from mmfocal.errors import ConfigError
from mmfocal.text import format_table
from mmfocal.visualization.attention import AttentionMaps, check_focal, check_index, visit_attention
from mmfocal.visualization.attention_plots import Mass, draw_attention, draw_mass, measure_mass
from mmfocal.visualization.figures import check_picture_name, save_figure
from mmfocal.visualization.network import add_network_arguments, open_network, prepare_image, read_image


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    add_network_arguments(parser)
    parser.add_argument('--stage', type=int, default=0, metavar='N', help='stage, from 0 (default: 0)')
    parser.add_argument(
        '--block', type=int, default=-1, metavar='N', help='block of the stage, from 0 (default: the last)'
    )
    parser.add_argument(
        '--head', default='mean', metavar='N', help='a head, from 0, or all, side by side (default: mean, of all heads)'
    )
    parser.add_argument(
        '--at', metavar='X,Y', help='where the token is, in pixels of the image (default: the middle of the image)'
    )
    parser.add_argument(
        '--out', help='the picture to write (default: work_dirs/attention/IMAGE.png); the other is NAME_mass'
    )


def main(args: argparse.Namespace) -> None:
    """Draws the two pictures, and prints where they are and the shares.

    Args:
        args: Of `add_arguments`.

    Raises:
        UserError: If the checkpoint, the image or an argument cannot be used.
    """
    out = Path(args.out or f'work_dirs/attention/{Path(args.image).stem}.png')
    check_picture_name(out)
    pixels = read_image(args.image)
    network = open_network(args.checkpoint, args.config, args.device)
    stages = check_focal(network.backbone).stages
    stage = check_index('stage', args.stage, len(stages), option='--')
    block = check_index('block', args.block, len(stages[stage].blocks), f'stage {stage}', '--')
    heads = _parse_heads(args.head, stages[stage].blocks[block].attn.num_heads)
    image = prepare_image(network, args.image, pixels)
    pixels = image.pixels
    point = _parse_point(args.at, pixels.shape[1], pixels.shape[0])

    chosen: list[AttentionMaps] = []
    masses: list[Mass] = []

    def visit(maps: AttentionMaps, *place: int) -> None:
        masses.append(measure_mass(maps, *place))
        if place == (stage, block):
            chosen.append(maps)

    visit_attention(network.backbone, image.inputs, visit)
    if not chosen:
        raise ConfigError(f'--stage {stage}: it does not run, out_indices={network.backbone.out_indices}')
    height, width = image.size
    at = point[0] * width / pixels.shape[1], point[1] * height / pixels.shape[0]
    row, column = chosen[0].token_at(*at)
    rows_of_map, columns_of_map = chosen[0].window.shape
    where = f'stage {stage}, block {block}, token ({column}, {row}) of {columns_of_map} × {rows_of_map}'
    name = Path(args.image).name
    save_figure(draw_attention(f'{name} at {width} × {height}: {where}', pixels, image.size, chosen[0], heads, at), out)
    mass_out = out.with_stem(f'{out.stem}_mass')
    save_figure(
        draw_mass(f'{name} at {width} × {height}: where attention goes, mean of all tokens and heads', masses), mass_out
    )

    kinds = list(dict.fromkeys(kind for mass in masses for kind in mass.by_kind))
    rows = [['block', *kinds, 'of it padding', 'half within']]
    for mass in masses:
        shares = [f'{mass.by_kind[kind]:.1%}' if kind in mass.by_kind else '–' for kind in kinds]
        rows.append([f'{mass.stage}.{mass.block}', *shares, f'{mass.padding:.1%}', f'{mass.half:.0f} px'])
    print(format_table(rows))
    print(f'{out}: {where}\n{mass_out}: all blocks')


def _parse_point(text: str | None, width: int, height: int) -> tuple[float, float]:
    if text is None:
        return width / 2, height / 2
    try:
        x, y = map(float, text.split(','))
    except ValueError:
        raise ConfigError(f'--at: write X,Y in pixels, such as 320,240; got {text!r}') from None
    if not (0 <= x < width and 0 <= y < height):
        raise ConfigError(f'--at {text}: it is outside the image of {width} × {height} pixels')
    return x, y


def _parse_heads(text: str, count: int) -> list[int] | None:
    if text == 'mean':
        return None
    if text == 'all':
        return list(range(count))
    if not text.lstrip('-').isdigit():
        raise ConfigError(f'--head: give a number from 0 to {count - 1}, all or mean; got {text!r}')
    return [check_index('head', int(text), count, 'the block', '--')]
