import statistics
from collections import deque
from collections.abc import Callable
from functools import wraps

import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from mmfocal.errors import ConfigError, DivergenceError
from mmfocal.models.wrappers import unwrap
from mmfocal.text import join_some

FINE, JUMP, NOT_FINITE = range(3)


@HOOKS.register_module()
class DivergenceHook(Hook):
    """Stops training when a loss or a gradient is NaN or infinite, before the optimizer uses it.

    Weights and checkpoints stay as they were. All processes of a distributed training stop or skip together.

    Args:
        skip: The most steps in a row that are skipped, and counted as `skipped_steps` in the log, before training
            stops. Default: 0, and 20 with float16's loss scaling, which finds its scale by steps that overflow.
        jump: A loss, finite but above this factor times the median of the last 50 steps, counts as divergence too;
            the first 10 steps do not. Default: None, only what is not finite.
    """

    def __init__(self, skip: int | None = None, jump: float | None = None) -> None:
        if skip is not None and (not isinstance(skip, int) or skip < 0):
            raise ConfigError(f'DivergenceHook: skip={skip!r} must be an integer from 0; it counts steps in a row')
        if jump is not None and (not isinstance(jump, (int, float)) or jump <= 1):
            raise ConfigError(f'DivergenceHook: jump={jump!r} must be a number above 1, as 100; it is a factor')
        self.skip, self.jump = skip, jump
        self.in_a_row = 0
        self.batches: list[tuple[dict, list[str]]] = []  # losses and images of each batch since the last step
        self.buffers: dict[str, Tensor] = {}
        self.losses: deque[float] = deque(maxlen=50)  # of the last steps

    def before_train(self, runner: Runner) -> None:
        model, optim_wrapper = unwrap(runner.model), runner.optim_wrapper
        model.register_forward_hook(self._remember, with_kwargs=True)
        scaler = getattr(optim_wrapper, 'loss_scaler', None)
        self.scales = scaler is not None and scaler.is_enabled()
        if self.skip is None:
            self.skip = 20 if self.scales else 0
        self._keep_buffers(model)

        # In place of the wrapper's step, since clipping, which comes before the optimizer's own step, would spread
        # one parameter's NaN to all. `wraps` keeps the counter by which schedulers know that steps are taken.
        step = optim_wrapper.step
        optim_wrapper.step = wraps(step)(lambda **kwargs: self._step(runner, model, step, **kwargs))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        for name, _ in unwrap(runner.model).named_parameters():
            if not checkpoint['state_dict'][name].isfinite().all():
                raise DivergenceError(
                    f'{name}: this weight is not finite, it was not saved and earlier checkpoints are intact; {_ADVICE}'
                )

    def _remember(self, model: nn.Module, args: tuple, inputs: dict, losses: dict) -> None:
        if model.training and inputs.get('mode') == 'loss':
            losses = {
                name: [value] if isinstance(value, Tensor) else value
                for name, value in losses.items()
                if 'loss' in name
            }  # those that BaseModel adds up
            losses = {name: sum(part.detach().float().mean() for part in parts) for name, parts in losses.items()}
            images = [sample.metainfo for sample in inputs.get('data_samples') or ()]
            self.batches.append((losses, [_image(metainfo) for metainfo in images]))

    def _step(self, runner: Runner, model: nn.Module, step: Callable, **kwargs) -> None:
        verdict = self._judge(runner.optim_wrapper)
        if verdict == FINE:
            self.in_a_row = 0
        else:
            self._count(runner, model, verdict)
            for name, buffer in model.named_buffers():  # a layer's running statistics may have seen the NaN
                buffer.copy_(self.buffers[name])
        if verdict == FINE or verdict == NOT_FINITE and self.scales:  # GradScaler takes no step and lowers its scale
            step(**kwargs)
        if verdict == FINE:
            self._keep_buffers(model)
            if self.jump and self.batches:
                self.losses.append(self._loss())
        self.batches.clear()

    def _judge(self, optim_wrapper) -> int:
        """Returns FINE, JUMP or NOT_FINITE, the worst of all processes: one may have a NaN and finite gradients."""
        parameters = [weight for group in optim_wrapper.param_groups for weight in group['params']]
        norm = get_total_norm([weight.grad for weight in parameters if weight.grad is not None])
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        figures = [norm] + [loss.to(norm.device) for losses, _ in self.batches for loss in losses.values()]
        verdict = NOT_FINITE * (~torch.stack(figures).isfinite().all()).float()
        if self._jumps():
            verdict = verdict.clamp(min=JUMP)
        all_reduce(verdict, 'max')
        return int(verdict)

    def _jumps(self) -> bool:
        if not self.jump or len(self.losses) < 10 or not self.batches:
            return False
        return self._loss() > self.jump * self._median()

    def _loss(self) -> float:
        """Returns the mean of this process' losses since the last step."""
        return sum(float(sum(losses.values())) for losses, _ in self.batches) / len(self.batches)

    def _median(self) -> float:
        return max(statistics.median(self.losses), 1e-12)  # it divides

    def _count(self, runner: Runner, model: nn.Module, verdict: int) -> None:
        what = self._describe(model, verdict)
        if self.in_a_row >= self.skip:
            skipped = f' and the {self.in_a_row} steps before it were skipped' if self.in_a_row else ''
            raise DivergenceError(
                f'iteration {runner.iter + 1}: {what}{skipped}; no weight and no checkpoint has it; {_ADVICE}'
            )
        self.in_a_row += 1
        hub, name = runner.message_hub, 'train/skipped_steps'
        total = 1 + (hub.get_scalar(name).current() if name in hub.log_scalars else 0)
        hub.update_scalar(name, total)
        runner.logger.warning(f'iteration {runner.iter + 1}: {what}; the step was skipped, {total} so far')

    def _describe(self, model: nn.Module, verdict: int) -> str:
        batches = [
            ({name: loss.item() for name, loss in losses.items() if not loss.isfinite()}, images)
            for losses, images in self.batches
        ]
        weights = [name for name, weight in model.named_parameters() if not _is_finite(weight.grad)]
        jump = (self._loss(), self._median(), batches) if self._jumps() else None
        parts = all_gather_object((batches, weights, jump))  # so that all processes report the same
        batches = [batch for part, _, _ in parts for batch in part]
        weights = list(dict.fromkeys(name for _, part, _ in parts for name in part))

        losses = {name: value for found, _ in batches for name, value in found.items()}
        if verdict == JUMP:
            loss, median, batches = max((part for _, _, part in parts if part), key=lambda part: part[0])
            what = f'the loss is {loss:.4g}, {loss / median:.0f} times the median of the last steps'
        elif losses:
            what = ', '.join(f'{name} is {value}' for name, value in losses.items())
            batches = [batch for batch in batches if batch[0]]
        else:
            what = f'all losses are finite, but not the gradient of {join_some(weights, 3)}'
        images = [image for _, found in batches for image in found]
        return f'{what} (images {join_some(images, 16)})' if images else what

    def _keep_buffers(self, model: nn.Module) -> None:
        if self.skip:
            self.buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}


_ADVICE = 'lower optim_wrapper.optimizer.lr, warm up longer or check the images, then --resume'


def _is_finite(gradient: Tensor | None) -> bool:
    """Returns whether a gradient is finite; False also if its norm overflows."""
    if isinstance(gradient, DTensor):
        gradient = gradient.to_local()
    return gradient is None or bool(gradient.norm().isfinite())


def _image(metainfo: dict) -> str:
    """Returns '139 (train2017/000000000139.jpg)', or as much of it as a sample knows."""
    known = [str(metainfo[key]) for key in ('img_id', 'img_path') if key in metainfo]
    return f'{known[0]} ({known[1]})' if len(known) == 2 else ''.join(known)
