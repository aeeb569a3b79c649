"""Makes the generated shapes data set, in the layout of COCO 2017 or as a folder per class."""

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
        help='range of the side lengths of images, in pixels (default: 128 192; with --classification 64 64)',
    )
    parser.add_argument(
        '--classification',
        action='store_true',
        help='one shape per image, in train/CLASS/ and val/CLASS/; MIN and MAX of --size are equal',
    )


def main(args: argparse.Namespace) -> None:
    """Makes the data set, unless it is already there.

    Args:
        args: Of `add_arguments`.

    Raises:
        UserError: If the folder holds something else.
    """
    from mmfocal.datasets.shapes import make_shape_folders, make_shapes
    from mmfocal.errors import UserError

    args.size = args.size or ((64, 64) if args.classification else (128, 192))
    if not args.classification:
        made = make_shapes(args.out_dir, args.num_train, args.num_val, args.seed, args.size)
    elif args.size[0] == args.size[1]:
        made = make_shape_folders(args.out_dir, args.num_train, args.num_val, args.seed, args.size[0])
    else:
        raise UserError(f'--size {args.size[0]} {args.size[1]}: --classification has one size; write it twice')
    print(
        f'{args.out_dir}: {args.num_train} training and {args.num_val} validation images of '
        f'{args.size[0]}-{args.size[1]} px, seed {args.seed}, {"made" if made else "already there"}'
    )
