"""Makes the generated shapes data set, in COCO 2017's layout."""

import argparse
import sys

from mmfocal.datasets.shapes import make_shapes
from mmfocal.errors import UserError


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
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
        help="range of the images' sides in px (default: 128 192)",
    )
    return parser.parse_args()


def main():
    args = parse_args()
    try:
        made = make_shapes(**vars(args))
    except (UserError, OSError) as error:
        sys.exit(f'make_shapes.py: {error}')
    print(
        f'{args.out_dir}: {args.num_train} training and {args.num_val} validation images of '
        f'{args.size[0]}-{args.size[1]} px, seed {args.seed}, {"made" if made else "already there"}'
    )


if __name__ == '__main__':
    main()
