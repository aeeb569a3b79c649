"""Timing in alternating rounds, and what the machine itself can do."""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from mmfocal.benchmark.speed.contenders import first_line


@dataclass
class Result:
    """What one contender did in one case.

    Args:
        name (str): Contender.
        label (str): Its name for tables and plots.
        times (List[float]): Seconds of one run, a value a round.
        memory (int, optional): Peak bytes of a step; None where it was not measured.
        status (str): 'ok', or in one word what came instead: 'absent', 'failed', 'out of memory'.
        reason (str): Of that; or, if 'ok', a remark.
        kinds (Dict[str, float]): Kind of work → seconds a step, where it was profiled.
    """

    name: str
    label: str
    times: list[float] = field(default_factory=list)
    memory: int | None = None
    status: str = 'ok'
    reason: str = ''
    kinds: dict[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.status == 'ok'

    @property
    def median(self) -> float:
        return statistics.median(self.times)

    def fail(self, error: BaseException) -> None:
        """Notes why this contender is out."""
        out_of_memory = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or 'allocate memory' in str(error)
        self.status = 'out of memory' if out_of_memory else 'failed'
        self.reason = first_line(error)
        self.times, self.memory = [], None


def attempt(result: Result, function: Callable, *args):
    """Calls a function; what it raises ends only this contender, and the result says why.

    Args:
        result (Result): Gets status and reason.
        function (Callable): To be called.
        *args: Its arguments.

    Returns:
        What the function returns; None if it raised.
    """
    try:
        return function(*args)
    except Exception as error:  # whatever a rival library raises
        result.fail(error)
    gc.collect()  # here the error is gone, and with it the frames that held its tensors
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def alternate(results: list[Result], steps: dict[str, Callable], repeats: int, timer: Callable) -> None:
    """Times contenders in turn, A B C A B C …, so that what slows the machine for a while slows them all.

    Args:
        results (List[Result]): Their `times` are filled; only those that are ok take part.
        steps (Dict[str, Callable]): Name → what runs the contender once.
        repeats (int): Rounds.
        timer (Callable): (step) → seconds of one run.
    """
    for _ in range(repeats):
        for result in results:
            if result.ok:
                seconds = attempt(result, timer, steps[result.name])
                if result.ok:
                    result.times.append(seconds)


def ratio(result: Result, baseline: Result) -> tuple[float, float, float]:
    """How much longer one contender takes than another.

    Args:
        result (Result): Timed in the same rounds as
        baseline (Result): this one.

    Returns:
        Tuple[float, float, float]: Median, lower and upper quartile of the rounds' ratios.
    """
    rounds = [a / b for a, b in zip(result.times, baseline.times)]
    lower, median, upper = statistics.quantiles(rounds, n=4, method='inclusive') if len(rounds) > 1 else rounds * 3
    return median, lower, upper


def find_baseline(results: list[Result], device: str) -> Result | None:
    """The Swin that the others are compared with.

    Args:
        results (List[Result]): Of one case.
        device (str): 'cpu': MMDetection's, else the fastest other; 'cuda': the fastest of timm's and torchvision's, else
            MMDetection's.

    Returns:
        Result: None if there is none.
    """
    swins = [result for result in results if result.ok and result.name.startswith(('swin', 'window'))]
    mmdet = [result for result in swins if result.name == 'swin_mmdet']
    others = [result for result in swins if result.name != 'swin_mmdet']
    preferred = mmdet or others if device == 'cpu' else others or mmdet
    return min(preferred, key=lambda result: result.median, default=None)


def make_timer(device: str, shortest: float = 0.02) -> Callable[[Callable], float]:
    """Builds a timer that runs a step as often as it takes to fill `shortest` seconds.

    Args:
        device (str): 'cpu' or 'cuda', where it waits for the GPU.
        shortest (float): Seconds. Defaults to 0.02.

    Returns:
        Callable[[Callable], float]: (step) → seconds of one run.
    """
    counts = {}

    def elapsed(step, count):
        if device == 'cpu':
            start = time.perf_counter()
            for _ in range(count):
                step()
            return time.perf_counter() - start
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(count):
            step()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3

    def timer(step):
        if step not in counts:
            counts[step] = min(max(round(shortest / max(elapsed(step, 1), 1e-6)), 1), 1000)
        return elapsed(step, counts[step]) / counts[step]

    return timer


def as_graph(step: Callable) -> Callable:
    """Records a step on the GPU as a CUDA graph: replaying it leaves no gaps between its kernels.

    Args:
        step (Callable): Warmed up.

    Returns:
        Callable: Replays it.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def device_rates(device: str, dtype: torch.dtype) -> tuple[float, float]:
    """Measures what the machine can do at best.

    Args:
        device (str): 'cpu' or 'cuda'.
        dtype (torch.dtype): Of the matrix product.

    Returns:
        Tuple[float, float]: Bytes a second of a large copy, read and written; floating-point operations a second of a large
        matrix product.
    """
    timer = make_timer(device)
    side, size = (8192, 2**30) if device == 'cuda' else (2048, 2**27)

    def best(step):
        return min(timer(step) for _ in range(5))

    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    with torch.inference_mode():
        product = best(lambda: a @ b)
        source = torch.empty(size, dtype=torch.uint8, device=device).random_()
        target = torch.empty_like(source)
        copy = best(lambda: target.copy_(source))
    return 2 * size / copy, 2 * side**3 / product
