"""A GPU that is none: what is meant for it runs on the CPU, so that every line of the CUDA paths does."""

import time
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch.overrides import TorchFunctionMode


class OnCpu(TorchFunctionMode):
    """Replaces the device 'cuda' in all calls by 'cpu'."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = {name: cpu_for_cuda(value) for name, value in (kwargs or {}).items()}
        return func(*map(cpu_for_cuda, args), **kwargs)


def cpu_for_cuda(value):
    is_cuda = value == 'cuda' if isinstance(value, str) else isinstance(value, torch.device) and value.type == 'cuda'
    return torch.device('cpu') if is_cuda else value


class Event:
    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.time = time.perf_counter()

    def elapsed_time(self, end):
        return (end.time - self.time) * 1e3


class CUDAGraph:
    """Runs nothing, but takes time."""

    def replay(self):
        time.sleep(1e-3)


@pytest.fixture
def fake_cuda(monkeypatch):
    """Makes PyTorch's CUDA a fake; counts calls, and `graph_error` makes recording a graph fail."""
    fake = SimpleNamespace(graphs=0, synchronized=0, emptied=0, graph_error=None)

    def count(name):
        def called():
            setattr(fake, name, getattr(fake, name) + 1)

        return called

    @contextmanager
    def graph(recorded):
        assert isinstance(recorded, CUDAGraph)
        if fake.graph_error:
            raise fake.graph_error
        fake.graphs += 1
        yield

    stream = SimpleNamespace(wait_stream=lambda other: None)
    replaced = dict(
        is_available=lambda: True,
        is_bf16_supported=lambda including_emulation=True: True,
        get_device_name=lambda: 'Fake GPU',
        device_count=lambda: 1,
        synchronize=count('synchronized'),
        empty_cache=count('emptied'),
        memory_allocated=lambda: 2**20,
        max_memory_allocated=lambda: 3 * 2**20,
        reset_peak_memory_stats=lambda: None,
        Event=Event,
        Stream=lambda: stream,
        current_stream=lambda: stream,
        stream=lambda stream: nullcontext(),
        CUDAGraph=CUDAGraph,
        graph=graph,
    )
    for name, value in replaced.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.backends.cudnn, 'benchmark', False)
    with OnCpu():
        yield fake
