"""Measures how many images per second one core loads for training: decoding, each transform, packing.

Times are those of the process's CPU, so that a busy machine or a slow disk does not count.
"""

import argparse
import math
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, init_default_scope

from mmfocal.benchmark.arguments import at_least
from mmfocal.benchmark.environment import cpu_name
from mmfocal.datasets.wrappers import iterate_inner
from mmfocal.engine import read_config
from mmfocal.errors import ConfigError
from mmfocal.text import format_table

DECODERS = {'cv2': 'OpenCV', 'turbojpeg': 'turbojpeg', 'pillow': 'Pillow'}
WARM_UP = 10  # images
OTHERS = 'the rest'  # of a sample's time: what the data set does outside its transforms


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `mmfocal benchmark loading`."""
    parser.add_argument('config', help='config of a detector, segmentor or classifier')
    parser.add_argument(
        '--images', type=at_least(1), default=200, metavar='N', help='how many to load, drawn at random (default: 200)'
    )
    parser.add_argument(
        '--decode',
        nargs='+',
        choices=list(DECODERS),
        metavar='DECODER',
        help=f"what decodes images: {', '.join(DECODERS)} (default: the config's)",
    )
    parser.add_argument('--rounds', type=at_least(1), default=3, metavar='N', help='each decoder in turn (default: 3)')
    parser.add_argument(
        '--iteration', type=seconds, metavar='SECONDS', help='of training; also prints the workers that it needs'
    )
    parser.add_argument('--gpus', type=at_least(1), default=8, metavar='N', help='per node (default: 8)')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='override settings of the config, e.g. train_dataloader.batch_size=4',
    )


def seconds(text: str) -> float:
    """Parses a positive number of seconds."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f'{text!r} is not a positive number of seconds')
    return value


def main(args: argparse.Namespace) -> None:
    """Measures and prints.

    Args:
        args: Of `add_arguments`.

    Raises:
        ConfigError: If the config has no training data, or a decoder is not installed or cannot read the images.
    """
    cfg = read_config(args.config, args.cfg_options)
    if not cfg.get('train_dataloader'):
        raise ConfigError(f'{args.config}: it has no train_dataloader; take a config for training')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    cv2.setNumThreads(0)  # as in a worker of a data loader
    torch.set_num_threads(1)
    decoders = args.decode or [None]
    datasets = {decoder: build_dataset(cfg, decoder) for decoder in decoders}
    rounds: dict[str | None, list[Counter[str]]] = {decoder: [] for decoder in decoders}
    indices = np.random.default_rng(0).integers(len(datasets[decoders[0]]), size=WARM_UP + args.images).tolist()
    for _ in range(args.rounds):
        for decoder, dataset in datasets.items():
            try:
                rounds[decoder].append(measure(dataset, indices))
            except (OSError, ValueError) as error:
                if decoder != 'turbojpeg':
                    raise
                raise ConfigError(f'--decode turbojpeg: it cannot decode an image: {error}') from error
    best = {decoder: min(measured, key=Counter.total) for decoder, measured in rounds.items()}
    print(f'{cpu_name()}, one core; OpenCV {cv2.__version__}; {args.images} images, the best of {args.rounds} rounds')
    print(loading_table(best))
    if args.iteration:
        batch = cfg.train_dataloader.get('batch_size') or 1
        for decoder, times in best.items():
            workers = workers_per_gpu(batch, args.iteration, 1 / times.total())
            name = f' with {DECODERS[decoder]}' if decoder else ''
            print(
                f'{batch} images per GPU every {args.iteration:g} s{name}: num_workers={workers}; '
                f'{args.gpus} GPUs: {args.gpus * (workers + 1)} cores'
            )


def build_dataset(cfg: Config, decoder: str | None) -> Any:
    """Builds the training data of a config, with another decoder of images than its own if that is given.

    Raises:
        ConfigError: If the decoder is not installed.
    """
    dataset = cfg.train_dataloader.dataset.to_dict()
    if decoder:
        try:
            mmcv.use_backend(decoder)  # loads turbojpeg's library
        except (ImportError, OSError, RuntimeError) as error:
            raise ConfigError(f'--decode {decoder}: {error}; pip install PyTurboJPEG and libjpeg-turbo') from error
        finally:
            mmcv.use_backend('cv2')
        for transform in _loading_transforms(dataset):
            transform['imdecode_backend'] = decoder
    return DATASETS.build(dataset)


def _loading_transforms(value: Any) -> Iterator[dict]:
    """Yields the dictionaries of transforms that load images."""
    if isinstance(value, dict):
        if str(value.get('type')).split('.')[-1] in ('LoadImageFromFile', 'LoadMultiChannelImageFromFiles'):
            yield value
        value = value.values()
    if not isinstance(value, str) and hasattr(value, '__iter__'):
        for one in value:
            yield from _loading_transforms(one)


def measure(dataset: BaseDataset, indices: list[int]) -> Counter[str]:
    """Loads samples; the first `WARM_UP` are not timed.

    Returns:
        Transform → seconds of CPU per image; a data set's own work is `OTHERS`.
    """
    spent: Counter[str] = Counter()
    pipelines = [one.pipeline for one in iterate_inner(dataset) if hasattr(one, 'pipeline')]
    plain = [pipeline.transforms for pipeline in pipelines]
    for pipeline in pipelines:
        pipeline.transforms = [_timed(transform, spent) for transform in pipeline.transforms]
    np.random.seed(0)  # of random transforms: the same for each decoder
    torch.manual_seed(0)
    try:
        for index in indices[:WARM_UP]:
            dataset[index]
        spent.clear()
        start = time.process_time()
        for index in indices[WARM_UP:]:
            dataset[index]
        total = time.process_time() - start
    finally:
        for pipeline, transforms in zip(pipelines, plain):
            pipeline.transforms = transforms
    count = len(indices) - WARM_UP
    spent[OTHERS] = max(total - spent.total(), 0.0)
    return Counter({name: value / count for name, value in spent.items()})


def _timed(transform: Any, spent: Counter[str]) -> Any:
    name = getattr(transform, '__name__', type(transform).__name__)

    def call(results: dict) -> dict | None:
        start = time.process_time()
        results = transform(results)
        spent[name] += time.process_time() - start
        return results

    return call


def loading_table(times: dict[str | None, Counter[str]]) -> str:
    """Formats the milliseconds of each transform and the images per second of one core, a column per decoder."""
    labels = [f'ms, {DECODERS[decoder]}' if decoder else 'ms' for decoder in times]
    names = list(dict.fromkeys(name for measured in times.values() for name in measured if name != OTHERS))
    rows = [['', *labels]]
    for name in [*names, OTHERS]:
        rows.append([name, *(f'{1e3 * measured[name]:.2f}' for measured in times.values())])
    rows.append(['sum', *(f'{1e3 * measured.total():.2f}' for measured in times.values())])
    rows.append(['images per second', *(f'{1 / measured.total():.1f}' for measured in times.values())])
    return format_table(rows)


def workers_per_gpu(batch: int, iteration: float, rate: float) -> int:
    """Returns the workers that load `batch` images every `iteration` seconds, `rate` images per second each, and one
    to spare.
    """
    return math.ceil(batch / (iteration * rate)) + 1
