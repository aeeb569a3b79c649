"""What test_distributed.py has two processes do, which write figures and checkpoints: two_processes.py OUT_DIR."""

import json
import sys
from pathlib import Path

import torch
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODELS, RUNNERS, init_default_scope
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import mmfocal.registration  # noqa: F401
from mmfocal.benchmark.iteration import random_batch
from mmfocal.engine import read_config
from mmfocal.models import FocalTransformer

ROOT = Path(__file__).parents[2]
NANO = ROOT / 'configs/atss_focal_nano_shapes.py'
OPTIONS = {
    'model.backbone.arch.depths': (1, 1, 1, 1),
    'model.neck.norm_cfg.type': 'SyncBN',
    'randomness.seed': 0,
    'train_dataloader.batch_size': 2,
    'train_cfg.max_epochs': 1,
    'train_cfg.val_interval': 1,
    'param_scheduler': [],
    'optim_wrapper.optimizer.eps': 1e-2,
    'model.test_cfg.score_thr': 0.0,
    'default_hooks.logger.interval': 1,
    **{
        f'{split}_dataloader.{name}': value
        for split in ('train', 'val', 'test')
        for name, value in (('num_workers', 0), ('persistent_workers', False))
    },
}


def main(out: str) -> None:
    distributed.init_process_group('gloo')
    figures = dict(backbone=backbone(), atss=atss())
    train('ddp', out)
    model = train('fsdp', out, {'fsdp_units': ['FocalBlock'], 'model.backbone.with_cp': True})
    here = sum(weight.to_local().numel() for weight in model.parameters())
    figures['share'] = here / sum(weight.numel() for weight in model.parameters())
    (Path(out) / f'{distributed.get_rank()}.json').write_text(json.dumps(figures))
    distributed.destroy_process_group()


def backbone() -> float:
    """The largest difference of a gradient, divided by the largest gradient, of two processes and of one."""
    torch.manual_seed(0)
    model = FocalTransformer(
        arch=dict(embed_dims=8, depths=(1, 1, 2, 1), num_heads=(1, 1, 2, 2)), border='mask', drop_path_rate=0.0
    ).double()
    images = torch.randn(4, 3, 64, 96, dtype=torch.float64)

    def loss(model, images):
        return sum((out - 1).pow(2).sin().mean() for out in model(images))

    loss(model, images).backward()
    joint = gradients(model)
    wrapped = DistributedDataParallel(model)
    loss(wrapped, images[distributed.get_rank() :: 2]).backward()
    return difference(gradients(model), joint)


def atss() -> float:
    torch.manual_seed(0)
    init_default_scope('mmdet')
    model = MODELS.build(read_config(NANO).model)
    model.init_weights()
    data = model.data_preprocessor(random_batch(model, (64, 96), batch=4, boxes=6), training=True)

    def loss(model, rank=0, step=1):
        losses = model(*(part[rank::step] for part in data.values()), mode='loss')
        return sum(torch.stack(values).sum() for values in losses.values())

    loss(model).backward()
    joint = gradients(model)
    wrapped = MMDistributedDataParallel(model, broadcast_buffers=False)
    loss(wrapped, distributed.get_rank(), 2).backward()
    return difference(gradients(model), joint)


def gradients(model: nn.Module) -> torch.Tensor:
    """The gradients in one vector; the model has none afterwards."""
    found = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    model.zero_grad()
    return found


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


def train(name: str, out: str, options: dict | None = None) -> nn.Module:
    cfg = read_config(
        NANO,
        OPTIONS
        | (options or {})
        | dict(
            runner_type='FocalRunner',
            launcher='pytorch',
            work_dir=f'{out}/{name}',
            experiment_name=name,
            visualizer=dict(name=name),
        ),
    )
    return RUNNERS.build(cfg).train()


if __name__ == '__main__':
    main(sys.argv[1])
