"""Measures all implementations in one case."""

from contextlib import ExitStack
from dataclasses import dataclass, field

import torch

from mmfocal.benchmark.speed.cases import Case, operator_work
from mmfocal.benchmark.speed.implementations import Implementation, first_line, implementations, import_error
from mmfocal.benchmark.speed.measure import (
    Result,
    Run,
    Step,
    Timer,
    alternate,
    as_cuda_graph,
    attempt,
    cpu_run,
    cuda_peak_memory,
    cuda_run,
    device_rates,
    find_baseline,
    operator_seconds,
)
from mmfocal.benchmark.speed.steps import make_step
from mmfocal.benchmark.speed.worker import Worker


@dataclass
class Comparison:
    """A case with its results.

    Args:
        case: What was measured.
        results: One per implementation, absent and failed ones included.
        baseline: Name of the Swin that the others are compared with.
        rates: For 'attention' the machine's copied bytes and matrix operations per second.
    """

    case: Case
    results: list[Result]
    baseline: str | None = None
    rates: tuple[float, float] | None = None

    def __getitem__(self, name: str | None) -> Result | None:
        return next((result for result in self.results if result.name == name), None)

    @property
    def least_seconds(self) -> float:
        """The least time of an attention case on this machine: of its copies or its products, whichever is longer."""
        assert self.rates is not None, 'rates are measured for attention only'
        flops, size = operator_work(self.case)
        return max(size / self.rates[0], flops / self.rates[1])


@dataclass
class Settings:
    """How to measure.

    Args:
        names: Implementations.
        repeats: Number of rounds.
        threads: Threads of torch on the CPU.
        profile: Also profile a step of each implementation.
        isolate: Time each implementation in its own process.
        rates: dtype → `device_rates`, measured once.
    """

    names: list[str]
    repeats: int
    threads: int
    profile: bool = False
    isolate: bool = False
    rates: dict[str, tuple[float, float]] = field(default_factory=dict)


def compare(case: Case, settings: Settings) -> Comparison:
    """Measures the implementations of a case: warm-up, memory, then alternating rounds.

    Returns:
        The comparison; an implementation that fails is in it with its reason.
    """
    chosen = {name: one for name, one in implementations(case.what).items() if name in settings.names}
    comparison = Comparison(case, [Result(name, one.label) for name, one in chosen.items()])
    if case.what == 'attention':
        if case.dtype not in settings.rates:
            settings.rates[case.dtype] = device_rates(case.device, case.torch_dtype)
        comparison.rates = settings.rates[case.dtype]
    if case.compiled:
        torch._dynamo.reset()
    for result in comparison.results:
        reason = import_error(chosen[result.name])
        if reason:
            result.status, result.reason = 'absent', reason
    _measure_time(comparison, chosen, settings)
    if case.device == 'cpu' and case.what == 'backbone' and not case.compiled:
        for result in comparison.results:
            if result.ok:
                _measure_cpu_memory(result, case, settings.threads)
    baseline = find_baseline(comparison.results, case.device)
    comparison.baseline = baseline and baseline.name
    return comparison


def _measure_time(comparison: Comparison, chosen: dict[str, Implementation], settings: Settings) -> None:
    case, timers, steps = comparison.case, {}, {}
    with ExitStack() as workers:
        for result in comparison.results:
            if not result.ok:
                continue
            if settings.isolate:
                worker = workers.enter_context(Worker(settings.threads))
                run = attempt(result, _prepare_worker, worker, result.name, case)
            else:
                steps[result.name] = attempt(result, _prepare, result, chosen[result.name], case)
                run = (cuda_run if case.device == 'cuda' else cpu_run)(steps[result.name])
            timers[result.name] = Timer(run)
        alternate(comparison.results, timers, settings.repeats)
    for result in comparison.results:
        if settings.profile and result.ok:
            result.operators = attempt(result, operator_seconds, steps[result.name], case.device == 'cuda')


def _prepare_worker(worker: Worker, name: str, case: Case) -> Run:
    worker.build(name, case)
    worker.run(2)
    return worker.run


def _prepare(result: Result, implementation: Implementation, case: Case) -> Step:
    """Builds an implementation, warms it up and, on a GPU, measures its memory; returns its step."""
    on_gpu = case.device == 'cuda'
    before = torch.cuda.memory_allocated() if on_gpu else 0
    step = make_step(implementation, case)
    own = torch.cuda.memory_allocated() - before if on_gpu else 0
    for _ in range(5 if on_gpu else 2):
        step()
    if on_gpu:
        result.memory = cuda_peak_memory(step, own)
    if on_gpu and case.what == 'attention':
        try:
            return as_cuda_graph(step)
        except RuntimeError as error:
            result.reason = f'timed with the gaps between its kernels, as it is no CUDA graph: {first_line(error)}'
    return step


def _measure_cpu_memory(result: Result, case: Case, threads: int) -> None:
    try:
        with Worker(threads) as worker:
            result.memory = worker.peak_memory(result.name, case)
    except Exception as error:  # a library raises anything
        result.reason = f'memory not measured: {first_line(error)}'
