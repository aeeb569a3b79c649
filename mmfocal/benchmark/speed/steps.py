"""One step of an implementation: an inference, or a forward and backward."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from mmfocal.benchmark.speed.cases import Case
from mmfocal.benchmark.speed.implementations import Implementation


def make_step(implementation: Implementation, case: Case) -> Callable[[], None]:
    """Builds an implementation and its inputs.

    Returns:
        A function that runs one inference, or one forward and backward that leaves no gradients behind.
    """
    torch.manual_seed(0)
    return (_backbone_step if case.what == 'backbone' else _operator_step)(implementation, case)


def _backbone_step(implementation: Implementation, case: Case) -> Callable[[], None]:
    images = torch.randn(case.batch, 3, case.height, case.width, device=case.device)
    model = implementation.build(case).to(case.device)
    model.train(case.mode == 'train')
    cast = case.mode == 'forward' and implementation.casts and not case.autocast
    if cast:
        model.to(case.torch_dtype)
        images = images.to(case.torch_dtype)
    run = torch.compile(model, dynamic=False) if case.compiled else model

    def mixed_precision() -> AbstractContextManager:
        return nullcontext() if cast or case.dtype == 'float32' else torch.autocast(case.device, case.torch_dtype)

    def infer() -> None:
        with torch.inference_mode(), mixed_precision():
            run(images)

    def train() -> None:
        with mixed_precision():
            outs = run(images)
        sum(out.float().mean() for out in outs).backward()
        model.zero_grad(set_to_none=True)

    return train if case.mode == 'train' else infer


def _operator_step(implementation: Implementation, case: Case) -> Callable[[], None]:
    layout, (heads, head_dim), (height, width) = case.layout, case.heads, case.map_size

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=case.device, dtype=case.torch_dtype, requires_grad=case.mode == 'train')

    q, k, v = (random(case.batch, height, width, heads, head_dim) for _ in range(3))
    pooled = tuple(random(case.batch, *layout.pooled_size(height, width, 0), heads, head_dim) for _ in range(2))
    bias = random(heads, layout.tokens, layout.keys)
    attend = implementation.build(case, bias)
    inputs = [q, k, v, *pooled, *getattr(attend, 'biases', [bias])]
    gradient = torch.randn_like(q)
    run = torch.compile(attend, dynamic=False) if case.compiled else attend

    def infer() -> None:
        with torch.inference_mode():
            run(q, k, v, [pooled])

    def train() -> None:  # windows alone do not use the pooled tokens
        torch.autograd.grad(run(q, k, v, [pooled]), inputs, gradient, allow_unused=True)

    return train if case.mode == 'train' else infer
