"""Predicts on images, folders, videos, cameras and URLs, and writes pictures and files of results.

SOURCE is a file, a folder with all images and videos below, a quoted pattern such as 'photos/*.jpg', an http or https
URL, the address of a stream, the index of a camera, or - for one path or URL per line on standard input.
Files that cannot be read are reported and passed over; the exit code is then 1. Ctrl-C keeps what is finished.

The config comes from the checkpoint, which is read as data and never run: of it, only registered classes of mmfocal,
MMDetection, MMPretrain and MMSegmentation are built, no other file is read and nothing is downloaded.
"""

import argparse
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

    from mmfocal.inference.sources import Frame

CHECKPOINT = 'checkpoint of a classifier, detector or segmentor: a file or URL, in any format that mmfocal reads'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument('checkpoint', help=CHECKPOINT)
    parser.add_argument('sources', nargs='+', metavar='SOURCE', help='see above')
    parser.add_argument('--config', help="the model's config: a file or a name (default: the one in the checkpoint)")
    parser.add_argument('--out', default='work_dirs/predict', metavar='DIR', help='default: work_dirs/predict')
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        metavar='SCORE',
        help='lowest score of boxes and masks in pictures and files (default: 0.3; 0 keeps all, to compute AP)',
    )
    parser.add_argument(
        '--top-k',
        type=int,
        default=5,
        metavar='K',
        help='classifiers: classes per image in pictures and files (default: 5)',
    )
    parser.add_argument('--device', help='such as cpu or cuda:1 (default: the GPU if there is one)')
    parser.add_argument(
        '--batch-size', type=int, default=1, metavar='N', help='images of equal size per batch (default: 1)'
    )
    parser.add_argument(
        '--classes', nargs='+', metavar='NAME', help="the classes' names (default: those in the checkpoint)"
    )
    parser.add_argument('--no-pictures', action='store_true', help='write files of results only')


def main(args: argparse.Namespace) -> None:
    """Predicts, writes the results and prints where they are.

    Args:
        args: Of `add_arguments`.

    Raises:
        UserError: If a source does not exist, or the checkpoint, the config or an argument cannot be used.
        SystemExit: With 1 if a file could not be read, with 130 after Ctrl-C.
    """
    import time
    import warnings

    from mmfocal.errors import ConfigError
    from mmfocal.inference.outputs import ResultWriter
    from mmfocal.inference.predictor import Predictor
    from mmfocal.inference.sources import Sources

    warnings.filterwarnings('ignore', category=UserWarning, module='mm(det|seg)')  # of deprecated names inside them
    if args.batch_size < 1:
        raise ConfigError(f'--batch-size: must be at least 1, got {args.batch_size}')
    if args.top_k < 1:
        raise ConfigError(f'--top-k: must be at least 1, got {args.top_k}')
    sources = Sources(args.sources, without=args.out)
    predictor = Predictor(args.checkpoint, args.config, args.device, args.score_thr, args.batch_size, args.classes)
    writer = ResultWriter(args.out, predictor.dataset_meta, pictures=not args.no_pictures, top_k=args.top_k)
    start, interrupted = time.perf_counter(), False
    done = failed = 0
    with progress(sources.count()) as bar:
        try:
            for batch, errors in batches(sources, args.batch_size):
                for frame in errors:
                    bar.console.print(f'skipped: {frame.error}', markup=False, highlight=False, soft_wrap=True)
                for frame, prediction in zip(batch, predictor.predict_batch([frame.image for frame in batch])):
                    writer.add(frame, prediction)
                    done += 1
                failed += len(errors)
                bar.advance(bar.task_ids[0], len(batch) + len(errors))
        except KeyboardInterrupt:
            interrupted = True
        finally:
            written = writer.close()
    seconds = time.perf_counter() - start
    rate = f' ({done / seconds:.1f} images per second)' if done else ''
    print(
        f'{"interrupted: " * interrupted}{done} images in {seconds:.1f} s{rate}{f"; in {args.out}:" if written else ""}'
    )
    print(''.join(f'  {name}: {number}\n' for name, number in written.items()), end='', flush=True)
    if failed:
        print(f'{failed} of {failed + done} images could not be read; see "skipped" above', flush=True)
    if failed or interrupted:
        raise SystemExit(130 if interrupted else 1)


def batches(frames: Iterable['Frame'], batch_size: int) -> Iterator[tuple[list['Frame'], list['Frame']]]:
    """Yields groups of readable images, and the unreadable ones among them."""
    images: list[Frame] = []
    errors: list[Frame] = []
    for frame in frames:
        (errors if frame.image is None else images).append(frame)
        if len(images) == batch_size or errors:
            yield images, errors
            images, errors = [], []
    if images:
        yield images, errors


def progress(total: int | None) -> 'Progress':
    """Returns a progress bar on stderr, with images per second.

    Args:
        total: Number of images, if it is known.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f'{speed:.1f} images/s' if speed else '')

    console = Console(stderr=True)
    bar = Progress(BarColumn(), MofNCompleteColumn(), Speed(), TimeRemainingColumn(), console=console)
    bar.disable = not console.is_terminal  # a log gets the lines only
    bar.add_task('', total=total)
    return bar
