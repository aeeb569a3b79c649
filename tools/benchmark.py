"""Measures this project: tools/benchmark.py COMMAND; each command has its --help."""

import argparse
from pathlib import Path

from mmfocal.benchmark import complexity, iteration
from mmfocal.benchmark.paper import collect, report, run
from mmfocal.benchmark.speed import command as speed
from mmfocal.engine import one_sentence_errors


def main():
    configs = Path(__file__).resolve().parents[1] / 'configs'
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    command = commands.add_parser('speed', help='time and memory against Swin and against roll + unfold')
    speed.add_arguments(command)
    command.set_defaults(main=speed.main)
    command = commands.add_parser('complexity', help="parameters and FLOPs of configs, beside the paper's")
    complexity.add_arguments(command)
    command.set_defaults(main=complexity.main, configs=configs)
    command = commands.add_parser('iteration', help="time of a detector's training iteration, and of its targets")
    iteration.add_arguments(command)
    command.set_defaults(main=iteration.main)
    command = commands.add_parser('run', help="train and test the cells of one of the paper's tables")
    run.add_arguments(command)
    command.set_defaults(main=run.main, configs=configs)
    command = commands.add_parser('collect', help='what work directories say of their trainings')
    collect.add_arguments(command)
    command.set_defaults(main=collect.main)
    command = commands.add_parser('report', help="a page of what was measured beside the paper's tables")
    report.add_arguments(command)
    command.set_defaults(main=report.main, configs=configs)
    args = parser.parse_args()
    args.main(args)


if __name__ == '__main__':
    with one_sentence_errors():
        main()
