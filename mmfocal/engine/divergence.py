from collections.abc import Callable

import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from mmfocal.errors import DivergenceError


@HOOKS.register_module()
class DivergenceHook(Hook):
    """Stops training when a loss or a gradient is NaN or infinite, before the optimizer uses it.

    Weights and checkpoints stay as they were. All processes of a distributed training stop or skip together.

    Args:
        skip (int, optional): How many steps in a row are left out, and counted as `skipped_steps` in the log,
            before training stops. Default: 0, and 20 with float16's loss scaling, which finds its scale by
            steps that overflow.
    """

    def __init__(self, skip: int | None = None):
        self.skip = skip
        self.in_a_row = 0
        self.batches = []  # losses and images of each batch since the last step, several with accumulation
        self.buffers = {}

    def before_train(self, runner: Runner) -> None:
        model, optim_wrapper = runner.model, runner.optim_wrapper
        model = model.module if is_model_wrapper(model) else model
        model.register_forward_hook(self._remember, with_kwargs=True)
        scaler = getattr(optim_wrapper, 'loss_scaler', None)
        self.scales = scaler is not None and scaler.is_enabled()
        if self.skip is None:
            self.skip = 20 if self.scales else 0
        self._keep_buffers(model)

        # In place of the wrapper's step, since clipping, which comes before the optimizer's own, would make
        # one parameter's NaN that of all.
        step = optim_wrapper.step
        optim_wrapper.step = lambda **kwargs: self._step(runner, model, step, **kwargs)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        for name, _ in model.named_parameters():
            if not checkpoint['state_dict'][name].isfinite().all():
                raise DivergenceError(
                    f'the weight {name} is not finite: it was not saved, and earlier '
                    f'checkpoints are as before; {_ADVICE}'
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
        parameters = [weight for group in runner.optim_wrapper.param_groups for weight in group['params']]
        norm = get_total_norm([weight.grad for weight in parameters if weight.grad is not None])
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        figures = [norm] + [loss.to(norm.device) for losses, _ in self.batches for loss in losses.values()]
        spoilt = (~torch.stack(figures).isfinite().all()).float()
        all_reduce(spoilt, 'max')  # a loss may be NaN in one process and leave the gradients finite
        if spoilt:
            self._count(runner, model)
            for name, buffer in model.named_buffers():  # a layer's running statistics may have seen the NaN
                buffer.copy_(self.buffers[name])
        else:
            self.in_a_row = 0
        if not spoilt or self.scales:  # GradScaler sees the same, takes no step and lowers its scale
            step(**kwargs)
        if not spoilt:
            self._keep_buffers(model)
        self.batches.clear()

    def _count(self, runner: Runner, model: nn.Module) -> None:
        what = self._describe(model)
        if self.in_a_row >= self.skip:
            skipped = f' and the {self.in_a_row} steps before it were skipped' if self.in_a_row else ''
            raise DivergenceError(
                f'iteration {runner.iter + 1}: {what}{skipped}; it is in no weight and no checkpoint; {_ADVICE}'
            )
        self.in_a_row += 1
        hub, name = runner.message_hub, 'train/skipped_steps'
        total = 1 + (hub.get_scalar(name).current() if name in hub.log_scalars else 0)
        hub.update_scalar(name, total)
        runner.logger.warning(f'iteration {runner.iter + 1}: {what}; no step was taken, {total} so far')

    def _describe(self, model: nn.Module) -> str:
        batches = [
            ({name: loss.item() for name, loss in losses.items() if not loss.isfinite()}, images)
            for losses, images in self.batches
        ]
        weights = [name for name, weight in model.named_parameters() if not _is_finite(weight.grad)]
        parts = all_gather_object((batches, weights))  # so that all processes say the same
        batches = [batch for part, _ in parts for batch in part]
        weights = list(dict.fromkeys(name for _, part in parts for name in part))

        losses = {name: value for found, _ in batches for name, value in found.items()}
        if losses:
            what = ', '.join(f'{name} is {value}' for name, value in losses.items())
            batches = [batch for batch in batches if batch[0]]
        else:
            what = f'all losses are finite, but not the gradient of {_some(weights, 3)}'
        images = [image for _, found in batches for image in found]
        return f'{what} (images {_some(images, 16)})' if images else what

    def _keep_buffers(self, model: nn.Module) -> None:
        if self.skip:
            self.buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}


_ADVICE = 'lower optim_wrapper.optimizer.lr, warm up longer, or look at the images, and go on with --resume'


def _is_finite(gradient: Tensor | None) -> bool:
    """Of a gradient whose norm overflows, False."""
    if isinstance(gradient, DTensor):
        gradient = gradient.to_local()
    return gradient is None or bool(gradient.norm().isfinite())


def _image(metainfo: dict) -> str:
    """'139 (train2017/000000000139.jpg)', or as much of it as a sample knows."""
    known = [str(metainfo[key]) for key in ('img_id', 'img_path') if key in metainfo]
    return f'{known[0]} ({known[1]})' if len(known) == 2 else ''.join(known)


def _some(names: list[str], number: int) -> str:
    more = f' and {len(names) - number} more' if len(names) > number else ''
    return ', '.join(names[:number]) + more
