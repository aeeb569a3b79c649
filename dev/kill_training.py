"""Kills and resumes a training at random moments, and compares its weights with an uninterrupted one."""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import torch
from mmengine.logging import MMLogger

from mmfocal.datasets.shapes import make_shapes
from mmfocal.engine import one_sentence_errors
from mmfocal.engine.checkpointer import corruption_reason
from mmfocal.errors import UserError
from mmfocal.weights import load_checkpoint

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = [
    'randomness.seed=0',
    'train_dataloader.batch_size=2',
    'train_cfg.val_interval=1',
    'default_hooks.checkpoint.resume_interval=3',
    'default_hooks.logger.interval=1',
    'val_dataloader.batch_size=1',
]
MOMENTS = ('any', 'saving', 'evaluation')


def main() -> bool:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--config', default=ROOT / 'configs/atss_focal_nano_shapes.py', help="default: the demo's, with small epochs"
    )
    parser.add_argument('--kills', type=int, default=30, help='default: 30')
    parser.add_argument('--epochs', type=int, default=24, help='of 16 iterations (default: 24)')
    parser.add_argument('--seed', type=int, default=0, help='of the moments (default: 0)')
    parser.add_argument('--work-dir', default='work_dirs/kill_training', help='default: work_dirs/kill_training')
    args = parser.parse_args()
    folder = Path(args.work_dir).absolute()
    MMLogger.get_current_instance().setLevel('WARNING')
    if folder.exists():
        raise UserError(f'{folder} exists already; remove it or choose another --work-dir')
    make_shapes(str(folder / 'shapes'), num_train=32, num_val=8, seed=0, size=(64, 64))
    training = Training(args, folder / 'killed')
    moments, found = random.Random(args.seed), Counter()
    for number in range(args.kills):
        moment = MOMENTS[number % len(MOMENTS)]
        where = training.kill(moment, moments)
        found[where] += 1
        print(f'kill {number + 1}: {where}, {training.check()} iterations are saved', flush=True)
    training.finish()
    whole = Training(args, folder / 'whole')
    whole.finish()
    different = differences(training.checkpoint(), whole.checkpoint())
    print(
        f'{args.kills} kills survived ({", ".join(f"{count} {name}" for name, count in found.items())}); '
        f'weights and optimizer {"differ from" if different else "equal"} those of an uninterrupted training'
        f'{": " + ", ".join(different[:5]) if different else " to the last bit"}'
    )
    return bool(different)


class Training:
    """A training in a work directory, started with --resume each time."""

    def __init__(self, args: argparse.Namespace, work_dir: Path):
        self.work_dir, self.iteration = work_dir, 0
        options = [*OPTIONS, f'train_cfg.max_epochs={args.epochs}']
        self.command = [
            sys.executable,
            ROOT / 'tools/train.py',
            args.config,
            '--resume',
            '--work-dir',
            work_dir,
            '--cfg-options',
            *options,
        ]
        self.environment = dict(os.environ, SHAPES_ROOT=f'{work_dir.parent}/shapes/', PYTHONPATH=str(ROOT))

    def start(self) -> subprocess.Popen:
        self.work_dir.mkdir(parents=True, exist_ok=True)
        with open(self.work_dir / 'output.txt', 'w') as output:
            return subprocess.Popen(
                self.command, env=self.environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )

    def output(self) -> str:
        return (self.work_dir / 'output.txt').read_text(errors='replace')

    def kill(self, moment: str, moments: random.Random) -> str:
        """Starts it, kills it and its workers, and returns what it was doing."""
        process = self.start()
        self.wait(process, lambda: '(train)' in self.output())
        if moment == 'any':
            end = time.monotonic() + moments.uniform(0, 3)
            self.wait(process, lambda: time.monotonic() > end)
        elif moment == 'saving':
            self.wait(process, lambda: any(self.work_dir.glob('.*.part')), pause=0.0005)
        else:
            seen = self.output().count('(val)')
            self.wait(process, lambda: self.output().count('(val)') > seen)
        saving = any(self.work_dir.glob('.*.part'))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        lines = [
            line
            for line in self.output().splitlines()
            if '(train)' in line or '(val)' in line or 'Saving checkpoint' in line
        ]
        in_evaluation = '(val)' in lines[-1] and 'bbox_mAP' not in lines[-1]
        return 'while saving' if saving else 'in evaluation' if in_evaluation else 'in training'

    def wait(self, process: subprocess.Popen, until, pause: float = 0.01) -> None:
        while not until():
            if process.poll() is not None:
                raise UserError(
                    f'{self.work_dir}: training ended with code {process.returncode} before the kill; raise --epochs '
                    f'if it finished:\n{self.output()[-2000:]}'
                )
            time.sleep(pause)

    def check(self) -> int:
        """Checks that the last checkpoint is valid and not older than the one before, and returns its iteration."""
        pointer = self.work_dir / 'last_checkpoint'
        if not pointer.exists() and not self.iteration:
            return 0
        path = pointer.read_text()
        if corruption_reason(path):
            raise UserError(f'last_checkpoint names {path}, which is corrupt: {corruption_reason(path)}')
        iteration = load_checkpoint(self.checkpoint())['meta']['iter']
        if iteration < self.iteration:
            raise UserError(f'{path}: {iteration} iterations, but {self.iteration} were saved before')
        self.iteration = iteration
        return iteration

    def checkpoint(self) -> str:
        return (self.work_dir / 'last_checkpoint').read_text()

    def finish(self) -> None:
        process = self.start()
        if process.wait():
            raise UserError(f'code {process.returncode}:\n{self.output()[-2000:]}')


def differences(*paths: str) -> list[str]:
    """Returns the weights' names and the optimizer states' numbers in which two checkpoints differ."""
    one, other = (load_checkpoint(path) for path in paths)
    names = [name for name, value in one['state_dict'].items() if not torch.equal(value, other['state_dict'][name])]
    states = (one['optimizer']['state'], other['optimizer']['state'])
    names += [
        f'state {index}'
        for index, values in states[0].items()
        if any(
            not torch.equal(torch.as_tensor(value), torch.as_tensor(states[1][index][name]))
            for name, value in values.items()
        )
    ]
    return names


if __name__ == '__main__':
    with one_sentence_errors():
        raise SystemExit(main())
