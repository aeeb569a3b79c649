"""Fuzzes the data sets: mutates annotation files, images and label maps, and loads each as training does.

Each mutation is loaded with both policies, bad_data='stop' and 'skip'. It may load, if the samples are valid, or
raise a UserError of one line; anything else is a bug and is printed with the number that reproduces it (--only
NUMBER). A process that dies, or does not report for 20 seconds, is a bug too, and so is an error that stops training
but that check_dataset.py does not list.
"""

import argparse
import io
import json
import logging
import multiprocessing
import os
import resource
import struct
import sys
import tempfile
import traceback
import zlib
from collections import Counter
from copy import deepcopy
from multiprocessing.connection import wait
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image
from pycocotools import mask as rle

import mmfocal.registration  # noqa: F401
from mmfocal.datasets.validation.issues import errors_of
from mmfocal.engine import one_sentence_errors
from mmfocal.errors import ConfigError, UserError

SIZES = {1: (40, 32), 2: (33, 47), 3: (24, 24)}  # width, height of each image
SILENCE = 20  # seconds that one mutation may take
MEMORY = 2 << 30  # bytes that a worker may use beyond what it has at its start
KINDS = ('boxes', 'masks', 'panoptic', 'labels')
THINGS, STUFF = ('disc', 'box'), ('sky',)
VALUES = [
    float('nan'),
    float('inf'),
    -float('inf'),
    1e300,
    -1e300,
    1e-300,
    10**400,
    -(10**30),
    2**31,
    2**63,
    -1,
    0,
    1,
    2,
    3,
    0.5,
    1e6,
    1e9,
    True,
    False,
    None,
    '',
    'x',
    '1',
    'a/b',
    '../..',
    '\0',
    '\ud800',
    'é' * 300,
    '1' * 5000,
    [],
    {},
    [[]],
    [None],
    [1, 2, 3, 4],
    [[1, 2, 3, 4]],
    [0, 0, 0, 0],
    ['a', 'b', 'c', 'd'],
    [float('nan')] * 6,
    [[1e30] * 6],
    [-1] * 5,
    {'counts': [5, 5], 'size': [32, 40]},
    {'counts': 'oooo0', 'size': [32, 40]},
    {'counts': [1, -1], 'size': [1e9, 1]},
    {'size': [2**20, 2**20], 'counts': [2**40]},
    {'id': 1},
    'zzzzzzzzzz~~',
    list(range(1000)),
]


# The sound data


def make_data(root):
    """Writes three images with boxes, masks, segments and label maps."""
    rng = np.random.default_rng(0)
    images, annotations, segments = [], [], []
    for folder in ('images', 'segments', 'labels'):
        (root / folder).mkdir()
    for number, (width, height) in SIZES.items():
        pixels = cv2.resize(rng.integers(0, 256, (6, 6, 3), np.uint8), (width, height))
        cv2.imwrite(str(root / f'images/{number}.jpg'), pixels)
        labels = np.zeros((height, width), np.uint8)
        labels[4:14, 3:15], labels[16:22, 8:20] = 1, 2
        cv2.imwrite(str(root / f'labels/{number}.png'), np.where(labels == 2, 255, labels))
        shown = np.stack([np.zeros_like(labels), labels, np.full_like(labels, 7)], 2)  # BGR: 7, 7 + 256, 7 + 512
        cv2.imwrite(str(root / f'segments/{number}.png'), shown)
        images.append(dict(id=number, file_name=f'{number}.jpg', width=width, height=height))
        coded = rle.encode(np.asfortranarray(labels == 2).view(np.uint8))
        runs = np.diff(np.flatnonzero(np.diff(np.r_[2, (labels == 1).ravel('F'), 2])))
        masks = [
            [[3, 4, 15, 4, 15, 14, 3, 14]],
            dict(size=[height, width], counts=coded['counts'].decode()),
            dict(size=[height, width], counts=runs.tolist()),
        ]
        for box, mask in zip(([3, 4, 12, 10], [8, 16, 12, 6], [3, 4, 12, 10]), masks):
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=number,
                    category_id=len(annotations) % 2 + 1,
                    bbox=box,
                    area=box[2] * box[3],
                    iscrowd=int(len(annotations) == 5),
                    segmentation=mask,
                )
            )
        segments.append(
            dict(
                image_id=number,
                file_name=f'{number}.png',
                segments_info=[
                    dict(id=7 + 256 * label, category_id=category, bbox=box, area=box[2] * box[3], iscrowd=0)
                    for label, category, box in (
                        (1, 1, [3, 4, 12, 10]),
                        (2, 2, [8, 16, 12, 6]),
                        (0, 3, [0, 0, width, height]),
                    )
                ],
            )
        )
    categories = [dict(id=1, name='disc', isthing=1), dict(id=2, name='box', isthing=1)]
    (root / 'boxes.json').write_text(json.dumps(dict(images=images, categories=categories, annotations=annotations)))
    categories.append(dict(id=3, name='sky', isthing=0))
    (root / 'panoptic.json').write_text(json.dumps(dict(images=images, categories=categories, annotations=segments)))
    # Where the package is not installed: the one function of it that loading needs.
    (root / 'packages/panopticapi').mkdir(parents=True)
    (root / 'packages/panopticapi/__init__.py').touch()
    (root / 'packages/panopticapi/utils.py').write_text(
        'def rgb2id(pixels):\n    return pixels.astype(int) @ [1, 256, 65536]\n'
    )


def config(root, kind, policy):
    """A data set of one of `KINDS`, and its scope."""
    if kind == 'labels':
        return 'mmseg', dict(
            type='LabelMapDataset',
            data_root=f'{root}/',
            data_prefix=dict(img_path='images', seg_map_path='labels'),
            metainfo=dict(classes=('ground', 'disc')),
            serialize_data=False,
            bad_data=policy,
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadCheckedAnnotations'),
                dict(type='RandomResize', scale=(48, 40), ratio_range=(0.5, 2.0), keep_ratio=True),
                dict(type='RandomCrop', crop_size=(24, 24), cat_max_ratio=0.75),
                dict(type='RandomFlip', prob=0.5),
                dict(type='PhotoMetricDistortion'),
                dict(type='PackSegInputs'),
            ],
        )
    load = dict(type='LoadAnnotations', with_bbox=True, with_mask=kind == 'masks')
    panoptic = kind == 'panoptic'
    return 'mmdet', dict(
        type='CheckedCocoPanopticDataset' if panoptic else 'CheckedCocoDataset',
        data_root=f'{root}/',
        ann_file='panoptic.json' if panoptic else 'boxes.json',
        data_prefix=dict(img='images/', seg='segments/') if panoptic else dict(img='images/'),
        metainfo=dict(classes=THINGS + STUFF, thing_classes=THINGS, stuff_classes=STUFF)
        if panoptic
        else dict(classes=THINGS),
        serialize_data=False,
        bad_data=policy,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadPanopticAnnotations') if panoptic else load,
            dict(type='RandomFlip', prob=0.5),
            dict(type='Resize', scale=(48, 40), keep_ratio=True),
            dict(type='RandomCrop', crop_type='absolute_range', crop_size=(20, 30), allow_negative_crop=True),
            dict(type='PackDetInputs'),
        ],
    )


# Mutations, each a function of a random generator and what is to be mutated


def mutate_content(rng, content):
    """Changes values, entries and keys of a parsed annotation file."""
    for _ in range(rng.integers(1, 4)):
        node = content
        if content and rng.random() < 0.95:
            node = content[str(rng.choice(list(content)))]
        depth = rng.integers(1, 5)
        while True:
            if not isinstance(node, (dict, list)) or not node:
                break
            key = list(node)[rng.integers(len(node))] if isinstance(node, dict) else int(rng.integers(len(node)))
            depth -= 1
            if depth > 0 and isinstance(node[key], (dict, list)) and node[key]:
                node = node[key]
                continue
            how = rng.integers(6)
            if how < 3:
                node[key] = deepcopy(VALUES[rng.integers(len(VALUES))])
            elif how == 3:
                del node[key]
            elif how == 4 and isinstance(node, list):
                node.append(deepcopy(node[key]))
            elif isinstance(node, dict):
                node[key] = deepcopy(node[list(node)[rng.integers(len(node))]])
            else:
                node[key] = [node[key]]
            break
    return json.dumps(content).encode()


def mutate_bytes(rng, content):
    """Flips, cuts, blanks or inserts bytes."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        start = int(rng.integers(len(content) + 1))
        stop = min(len(content), start + int(2 ** rng.uniform(0, 9)))
        how = rng.integers(6)
        if how < 2 and start < len(content):
            content[start] ^= 1 << rng.integers(8)
        elif how == 2:
            del content[start:]
        elif how == 3:
            content[start:stop] = bytes(stop - start)
        elif how == 4:
            content[start:start] = rng.bytes(int(2 ** rng.uniform(0, 9)))
        else:
            content[start:stop] = b''
    return bytes(content)


def other_format(rng, content):
    """Writes the pixels in another format, mode, size or orientation."""
    image = Image.open(io.BytesIO(content))
    if rng.random() < 0.3:
        image = image.resize([int(side) for side in rng.integers(1, 60, 2)])
    modes = dict(
        JPEG=('CMYK', 'L', 'RGB'),
        PNG=('1', 'P', 'RGBA', 'LA', 'I;16', 'RGB', 'L'),
        GIF=('P',),
        BMP=('RGB',),
        TIFF=('F', 'CMYK', 'I;16', 'RGBA', 'I'),
        WEBP=('RGBA', 'RGB'),
        PPM=('RGB', 'L'),
        ICO=('RGBA',),
        TGA=('RGB',),
    )
    kind = str(rng.choice(list(modes)))
    mode = str(rng.choice(modes[kind]))
    image = image.convert('L').convert('I').convert('I;16') if mode == 'I;16' else image.convert('RGB').convert(mode)
    exif = Image.Exif()
    exif[0x112] = int(rng.integers(0, 12))
    written = io.BytesIO()
    image.save(written, kind, **(dict(exif=exif) if kind in ('JPEG', 'PNG', 'WEBP') else {}))
    return written.getvalue()


def huge_header(rng, content):
    """Claims another size, up to what no memory holds."""
    content = bytearray(content)
    width, height = (int(2 ** rng.uniform(0, 31 if content[:4] == b'\x89PNG' else 16)) for _ in range(2))
    if content[:4] == b'\x89PNG':
        content[16:24] = struct.pack('>II', width, height)
        content[29:33] = struct.pack('>I', zlib.crc32(content[12:29]))
    else:
        start = content.find(b'\xff\xc0')
        content[start + 5 : start + 9] = struct.pack('>HH', min(height, 65535), min(width, 65535))
    return bytes(content)


def other_file(rng, content):
    """Something else in its place; None for a folder, and for nothing at all an empty tuple."""
    return [
        b'',
        b'<html>404 Not Found</html>',
        rng.bytes(int(rng.integers(1, 2000))),
        None,
        (),
        content + content,
        b'\xff\xd8\xff',
        b'\x89PNG\r\n\x1a\n',
        b'GIF89a',
        b'II*\0',
    ][rng.integers(10)]


def mutate(rng, kind, sound):
    """One mutation: the file's name within the data set, and its new content."""
    names = {'boxes': ['boxes.json'], 'masks': ['boxes.json'], 'panoptic': ['panoptic.json'], 'labels': []}[kind]
    if names and rng.random() < 0.6:
        if rng.random() < 0.75:
            return names[0], mutate_content(rng, json.loads(sound[names[0]]))
        return names[0], mutate_bytes(rng, sound[names[0]])
    folders = {'panoptic': ('images', 'segments'), 'labels': ('images', 'labels', 'labels')}.get(kind, ('images',))
    folder = str(rng.choice(folders))
    names = [name for name in sound if name.startswith(folder)]
    name = names[rng.integers(len(names))]
    how = [mutate_bytes, mutate_bytes, other_format, huge_header, other_file][rng.integers(5)]
    return name, how(rng, sound[name])


# Loading


def put(path, content):
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    if content is None:
        path.mkdir()
    elif content != ():
        path.write_bytes(content)


def load(root, kind, policy):
    """Loads all samples, and refuses what a model could not be trained with."""
    scope, cfg = config(root, kind, policy)
    init_default_scope(scope)
    dataset = DATASETS.build(cfg)
    for index in range(min(len(dataset), 4)):
        sample = dataset[index]
        inputs, truth = sample['inputs'], sample['data_samples']
        assert inputs.dtype == torch.uint8 and inputs.dim() == 3 and len(inputs) == 3, inputs.shape
        height, width = truth.img_shape
        assert inputs.shape[1:] == (height, width)
        if kind == 'labels':
            labels = truth.gt_sem_seg.data
            assert labels.shape == (1, height, width) and set(labels.unique().tolist()) <= {0, 1, 255}
            continue
        instances = truth.gt_instances
        boxes = instances.bboxes.tensor
        assert boxes.isfinite().all() and ((boxes[:, 2:] - boxes[:, :2]).prod(1).isfinite()).all(), boxes
        assert ((instances.labels >= 0) & (instances.labels < len(THINGS))).all()
        if kind != 'boxes':
            assert instances.masks.masks.shape == (len(boxes), height, width)
        if kind == 'panoptic':
            assert set(truth.gt_sem_seg.sem_seg.unique().tolist()) <= {0, 1, 2, 255}


def check(root, kind, stopped):
    """Lists all issues, as tools/check_dataset.py does; where training stops, there must be an error."""
    scope, cfg = config(root, kind, 'stop')
    init_default_scope(scope)
    issues, checks = DATASETS.build(dict(cfg, lazy_init=True)).find_issues()
    issues += [issue for check_file in checks for issue in check_file()]
    errors = errors_of(issues)
    assert errors or not stopped, f'training stops, and no error is listed: {stopped}'
    json.dumps([issue._replace(error=None)._asdict() for issue in issues])
    return errors


def try_one(root, sound, seed, number):
    """Loads one mutation with both policies: a list of outcomes, and of bugs."""
    rng = np.random.default_rng([seed, number])
    kind = KINDS[rng.integers(len(KINDS))]
    name, content = mutate(rng, kind, sound)
    outcomes, bugs, stopped = [], [], None
    put(root / name, content)
    for policy in ('stop', 'skip'):
        np.random.seed(number)
        try:
            load(root, kind, policy)
            outcomes.append(f'{policy}: loaded')
        except UserError as error:
            outcomes.append(f'{policy}: one sentence')
            stopped = stopped or policy == 'stop' and not isinstance(error, ConfigError) and error
            if '\n' in str(error) or not 20 < len(str(error)) < 1500:
                bugs.append(f'{kind}, {name}, {policy}: not one sentence: {error!r}')
        except Exception:
            outcomes.append(f'{policy}: bug')
            bugs.append(f'{kind}, {name}, {policy}: {traceback.format_exc()}')
    try:
        outcomes.append('check: errors' if check(root, kind, stopped) else 'check: none')
    except Exception:
        outcomes.append('check: bug')
        bugs.append(f'{kind}, {name}, check: {traceback.format_exc()}')
    put(root / name, sound[name])
    return outcomes, bugs


def work(connection, seed, numbers):
    """Tries mutations in a folder of its own, and tells of each."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    logging.disable()
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1), os.dup2(quiet, 2)
    used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_data(root)
        sys.path.append(f'{root}/packages')
        sound = {
            str(path.relative_to(root)): path.read_bytes()
            for path in sorted(root.rglob('*.*'))
            if path.is_file() and path.suffix != '.py'
        }
        for kind in KINDS:
            load(root, kind, 'stop')
        for number in numbers:
            connection.send((number, *try_one(root, sound, seed, number)))
    connection.close()


def fuzz(number, seed=0, workers=1, first=0):
    """Tries mutations in several processes.

    Args:
        number: How many.
        seed: Seed of all of them.
        workers: Number of processes.
        first: Number of the first.

    Returns:
        tuple: How often each outcome was, and the bugs, a list of (number, text).
    """
    outcomes, bugs, jobs = Counter(), [], {}

    def start(numbers):
        ours, theirs = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context('fork').Process(target=work, args=(theirs, seed, numbers))
        process.start()
        theirs.close()
        jobs[ours] = process, numbers

    for worker in range(workers):
        start(list(range(first + worker, first + number, workers)))
    while jobs:
        ready = wait(jobs, timeout=SILENCE)
        for connection in ready or list(jobs):
            process, numbers = jobs[connection]
            try:
                if not ready:
                    raise EOFError(f'silent for {SILENCE} s')
                done, found, problems = connection.recv()
            except EOFError as error:
                del jobs[connection]
                process.kill() if not ready else None
                process.join()
                if numbers:
                    bugs.append((numbers[0], str(error) or f'its process died with exit code {process.exitcode}'))
                    outcomes['died or hung'] += 1
                    start(numbers[1:])
                continue
            numbers.remove(done)
            outcomes.update(found)
            bugs += [(done, problem) for problem in problems]
    return outcomes, bugs


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--number', type=int, default=10000, help='of mutations (default: 10000)')
    parser.add_argument('--seed', type=int, default=0, help='of all mutations (default: 0)')
    parser.add_argument(
        '--workers', type=int, default=len(os.sched_getaffinity(0)), help='processes (default: one a core)'
    )
    parser.add_argument('--only', type=int, metavar='NUMBER', help='make this mutation alone')
    args = parser.parse_args()
    if args.only is None:
        outcomes, bugs = fuzz(args.number, args.seed, args.workers)
    else:
        outcomes, bugs = fuzz(1, args.seed, first=args.only)
    for number, text in bugs:
        print(f'--only {number} --seed {args.seed}: {text}')
    for outcome, count in sorted(outcomes.items()):
        print(f'{count:7} {outcome}')
    raise SystemExit(1 if bugs else 0)


if __name__ == '__main__':
    with one_sentence_errors():
        main()
