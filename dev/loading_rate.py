"""How many images a second one core loads as a config's training does: dev/loading_rate.py CONFIG."""

import argparse
import time

import cv2
import numpy as np
import torch
from mmengine.registry import DATASETS, init_default_scope

import mmfocal.registration  # noqa: F401
from mmfocal.engine import one_sentence_errors, read_config


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--images',
        type=int,
        default=100,
        metavar='N',
        help='how many to load, after ten that are not timed (default: 100)',
    )
    args = parser.parse_args()
    cfg = read_config(args.config)
    cv2.setNumThreads(0)  # as in a data loader's worker
    torch.set_num_threads(1)
    np.random.seed(0)
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    indices = np.random.randint(len(dataset), size=10 + args.images)
    for index in indices[:10]:
        dataset[index]
    start, cpu_start = time.perf_counter(), time.process_time()
    for index in indices[10:]:
        dataset[index]
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    print(
        f"{args.images / cpu_seconds:.1f} images a second of a core's time; "
        f'{args.images / seconds:.1f} with waiting for files and for a busy machine'
    )


if __name__ == '__main__':
    with one_sentence_errors():
        main()
