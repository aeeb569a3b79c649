"""Draws what a network sees: tools/visualize.py COMMAND; each command has its --help."""

import argparse

import mmfocal.registration  # noqa: F401
from mmfocal.engine import one_sentence_errors
from mmfocal.visualization import heatmaps


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    command = commands.add_parser(
        'heatmaps', help='RepPoints V2: corner heatmaps and foreground map, predicted and as annotated'
    )
    heatmaps.add_arguments(command)
    command.set_defaults(main=heatmaps.main)
    args = parser.parse_args()
    args.main(args)


if __name__ == '__main__':
    with one_sentence_errors():
        main()
