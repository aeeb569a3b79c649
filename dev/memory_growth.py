"""Measures whether training's resident memory grows: dev/memory_growth.py CONFIG."""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS

import mmfocal.registration  # noqa: F401
from mmfocal.cli.arguments import add_config, add_runner
from mmfocal.engine import load_config, one_sentence_errors
from mmfocal.memory import resident_memory

EVERY = 10  # iterations between two measurements


class MemoryLog(Hook):
    """Records iterations and the resident memory in bytes, of this process and of its data loaders' workers."""

    priority = 'LOWEST'

    def __init__(self):
        self.seen = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if (runner.iter + 1) % EVERY == 0:
            children = Path(f'/proc/self/task/{os.getpid()}/children').read_text().split()
            self.seen.append((runner.iter + 1, resident_memory(), sum(map(resident_memory, children))))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=f'{__doc__} Without --work-dir it trains in a temporary folder; it does not validate.'
    )
    add_config(parser)
    parser.add_argument('--iters', type=int, default=500, help='iterations after the warm-up (default: 500)')
    parser.add_argument(
        '--warm-up', type=int, default=100, help='iterations before the first measurement (default: 100)'
    )
    add_runner(parser)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work_dir:
        args.work_dir = args.work_dir or work_dir
        cfg = load_config(args)
        cfg.update(val_dataloader=None, val_cfg=None, val_evaluator=None, param_scheduler=[])
        cfg.train_cfg = dict(type='ResumableIterLoop', max_iters=args.warm_up + args.iters)
        cfg.default_hooks.checkpoint = None
        runner = RUNNERS.build(cfg)
        log = MemoryLog()
        runner.register_hook(log)
        runner.train()
    seen = np.array([row for row in log.seen if row[0] >= args.warm_up]) / (1, 2**20, 2**20)  # MiB
    for name, memory in (('training process', seen[:, 1]), ('workers', seen[:, 2])):
        slope = 100 * np.polyfit(seen[:, 0], memory, 1)[0]
        print(
            f'{name}: {memory[0]:.1f} MiB at iteration {seen[0, 0]:.0f}, {memory[-1]:.1f} MiB at iteration '
            f'{seen[-1, 0]:.0f}, at most {memory.max():.1f} MiB; {slope:+.2f} MiB in 100 iterations'
        )


if __name__ == '__main__':
    with one_sentence_errors():
        main()
