"""Workers of data loaders: what they do on signals and when they cannot send what they have loaded."""

import os
import signal
from collections.abc import Callable
from multiprocessing.queues import Queue
from typing import Any

from mmfocal.engine.preemption import outlive_preemption


class WorkerInit:
    """A `worker_init_fn` that keeps workers alive until training has saved, and exits those that cannot send a batch.

    Args:
        init: The data loader's own `worker_init_fn`, called afterwards.
    """

    def __init__(self, init: Callable[[int], None] | None = None) -> None:
        self.init = init

    def __call__(self, worker_id: int) -> None:
        outlive_preemption()
        exit_when_sending_fails()
        if self.init:
            self.init(worker_id)


def exit_when_sending_fails() -> None:
    """Makes this process, a worker, exit if a batch cannot be put into its queue.

    `multiprocessing` prints the error and drops the batch, for which training would wait forever. The usual reason is
    a full /dev/shm: then the worker raises SIGBUS, as PyTorch's workers do when they write to it.
    """
    print_error = Queue._on_queue_feeder_error

    def exit_worker(error: Exception, batch: Any) -> None:
        if 'shared memory' in str(error) or 'No space left' in str(error):
            signal.raise_signal(getattr(signal, 'SIGBUS', signal.SIGABRT))
        print_error(error, batch)
        os._exit(1)

    Queue._on_queue_feeder_error = staticmethod(exit_worker)
