"""Makes the generated shapes data set, in the layout of COCO 2017."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument('out_dir', help='folder to fill: new, empty, or with a shapes data set')
    parser.add_argument('--num-train', type=int, default=2000, help='training images (default: %(default)s)')
    parser.add_argument('--num-val', type=int, default=300, help='validation images (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='default: %(default)s')
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('MIN', 'MAX'),
        default=(128, 192),
        help='range of the side lengths of images, in pixels (default: 128 192)',
    )


def main(args: argparse.Namespace) -> None:
    """Makes the data set, unless it is already there.

    Args:
        args: Of `add_arguments`.

    Raises:
        UserError: If the folder holds something else.
    """
    from mmfocal.datasets.shapes import make_shapes

    made = make_shapes(args.out_dir, args.num_train, args.num_val, args.seed, args.size)
    print(
        f'{args.out_dir}: {args.num_train} training and {args.num_val} validation images of '
        f'{args.size[0]}-{args.size[1]} px, seed {args.seed}, {"made" if made else "already there"}'
    )
