"""Times steps in alternating rounds, and measures what the machine itself can do."""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from mmfocal.benchmark.speed.implementations import first_line

RATE_SIZES = {'cpu': (2048, 2**27), 'cuda': (8192, 2**30)}  # of `device_rates`: a matrix's side, bytes of a copy
Step = Callable[[], None]
Run = Callable[[int], float]  # runs a step so many times and returns the seconds of them all


@dataclass
class Result:
    """What one implementation did in one case.

    Args:
        name: Name of the implementation.
        label: Its name in tables and plots.
        times: Seconds per step, one value per round.
        memory: Peak bytes of a step; None if it was not measured.
        status: 'ok', 'absent', 'failed' or 'out of memory'.
        reason: Why the status is not 'ok'; a remark if it is.
        operators: Operator → seconds per step, if the step was profiled.
    """

    name: str
    label: str
    times: list[float] = field(default_factory=list)
    memory: int | None = None
    status: str = 'ok'
    reason: str = ''
    operators: dict[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.status == 'ok'

    @property
    def median(self) -> float:
        return statistics.median(self.times)

    def fail(self, error: BaseException) -> None:
        """Records an error as the reason why there is no measurement."""
        out_of_memory = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or 'allocate memory' in str(error)
        self.status = 'out of memory' if out_of_memory else 'failed'
        self.reason = first_line(error)
        self.times, self.memory = [], None


def attempt(result: Result, function: Callable[..., Any], *args: Any) -> Any:
    """Calls a function; an exception is recorded in the result and the other implementations continue.

    Returns:
        What the function returns; None if it raised.
    """
    try:
        return function(*args)
    except Exception as error:  # a library raises anything
        result.fail(error)
    gc.collect()  # the error is gone here, and with it the frames that held its tensors
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def cpu_run(step: Step) -> Run:
    """Times a step with the CPU's clock."""

    def run(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            step()
        return time.perf_counter() - start

    return run


def cuda_run(step: Step) -> Run:
    """Times a step with CUDA events."""

    def run(count: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(count):
            step()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3

    return run


class Timer:
    """Measures the seconds of one step; repeats a short step until it fills `shortest` seconds."""

    def __init__(self, run: Run, shortest: float = 0.02):
        self.run, self.shortest, self.count = run, shortest, 0

    def __call__(self) -> float:
        if not self.count:
            self.count = min(max(round(self.shortest / max(self.run(1), 1e-6)), 1), 1000)
        return self.run(self.count) / self.count


def alternate(results: list[Result], timers: dict[str, Callable[[], float]], repeats: int) -> None:
    """Times implementations in turn, A B C A B C …, so that a slow phase of the machine slows them all.

    Args:
        results: Get their `times`; only those that are ok take part.
        timers: Name → function that returns the seconds of one step.
        repeats: Number of rounds.
    """
    for _ in range(repeats):
        for result in results:
            if result.ok:
                seconds = attempt(result, timers[result.name])
                if result.ok:
                    result.times.append(seconds)


def ratio(result: Result, baseline: Result) -> tuple[float, float, float]:
    """Divides the time of one implementation by that of another, measured in the same rounds.

    Returns:
        Median, lower and upper quartile of the rounds' ratios.
    """
    rounds = [a / b for a, b in zip(result.times, baseline.times)]
    lower, median, upper = statistics.quantiles(rounds, n=4, method='inclusive') if len(rounds) > 1 else rounds * 3
    return median, lower, upper


def find_baseline(results: list[Result], device: str) -> Result | None:
    """Returns the Swin that the others are compared with, None if there is none.

    On a CPU it is MMDetection's, else the fastest of the others; on a GPU the fastest of timm's and torchvision's, else
    MMDetection's.
    """
    swins = [
        result
        for result in results
        if result.ok and result.name.startswith(('swin', 'window')) and not result.name.endswith('_with_cp')
    ]
    mmdet = [result for result in swins if result.name == 'swin_mmdet']
    others = [result for result in swins if result.name != 'swin_mmdet']
    preferred = mmdet or others if device == 'cpu' else others or mmdet
    return min(preferred, key=lambda result: result.median, default=None)


def as_cuda_graph(step: Step) -> Step:
    """Records a warmed-up step as a CUDA graph, whose replay leaves no gaps between the kernels."""
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


def cuda_peak_memory(step: Step, own: int) -> int:
    """Measures the peak memory of a warmed-up step on the GPU.

    Args:
        step: Runs once.
        own: Bytes that the implementation holds between its steps: weights and images.

    Returns:
        Those bytes and what the step allocates; weights of other implementations are left out.
    """
    torch.cuda.synchronize()
    others = torch.cuda.memory_allocated() - own
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - others


def operator_seconds(step: Step, on_gpu: bool = False, steps: int = 3) -> dict[str, float]:
    """Profiles a warmed-up step.

    Args:
        step: Runs once.
        on_gpu: Count the GPU's time.
        steps: How often to run the step.

    Returns:
        Operator or kernel → seconds per step. The profiler itself slows down many small operators.
    """
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=activities) as profiler:
        for _ in range(steps):
            step()
    seconds = {}
    for event in profiler.key_averages():
        micros = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if micros > 0:
            seconds[event.key] = micros / 1e6 / steps
    return seconds


def device_rates(device: str, dtype: torch.dtype) -> tuple[float, float]:
    """Measures what the machine can do at best.

    Returns:
        Bytes per second of a large copy, read and written; floating-point operations per second of a large product.
    """
    side, size = RATE_SIZES[device]
    run = cuda_run if device == 'cuda' else cpu_run

    def best(step: Step) -> float:
        timer = Timer(run(step))
        return min(timer() for _ in range(5))

    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    with torch.inference_mode():
        product = best(lambda: a @ b)
        source = torch.empty(size, dtype=torch.uint8, device=device).random_()
        target = torch.empty_like(source)
        copy = best(lambda: target.copy_(source))
    return 2 * size / copy, 2 * side**3 / product
