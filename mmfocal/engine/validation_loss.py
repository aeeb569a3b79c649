"""The validation loss, beside the metrics."""

import copy
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.logging import HistoryBuffer
from mmengine.registry import LOOPS
from mmengine.runner import ValLoop
from torch.nn.functional import interpolate

from mmfocal.errors import ConfigError
from mmfocal.models.wrappers import unwrap


@LOOPS.register_module()
class ValLossLoop(ValLoop):
    """MMEngine's `ValLoop`, which also computes the model's losses: `val_loss` and its parts in the log.

    Set `val_cfg.type=ValLossLoop`. The losses are those of the model in evaluation mode for the images as they are
    tested, averaged over the images of all processes; another forward is computed for them. They can be followed like
    metrics, as by `save_best='val_loss'` with `rule='less'`.

    Raises:
        ConfigError: If the validation images have no annotations.
    """

    extra_metrics = {'val_loss'}

    def run(self) -> dict:
        self.sums: dict[str, float] = {}
        self.images = 0
        scalars = self.runner.message_hub.log_scalars
        for name in [name for name in scalars if name.startswith('val/') and 'loss' in name]:
            del scalars[name]  # or MMEngine logs the mean of the latest validations
        return super().run()

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: dict) -> None:
        self._add(data_batch)
        super().run_iter(idx, data_batch)
        if idx + 1 == len(self.dataloader):
            self._average()

    def _add(self, data_batch: dict) -> None:
        model = unwrap(self.runner.model)
        resized_first = _resized_before_annotations(self.dataloader.dataset)
        samples = [as_image_is_resized(sample, resized_first) for sample in data_batch['data_samples']]
        data = model.data_preprocessor(dict(data_batch, data_samples=samples), False)
        losses = model.loss(data['inputs'], data['data_samples'])
        for name, value in losses.items():
            if 'loss' in name:
                value = sum(part.mean() for part in ([value] if torch.is_tensor(value) else value))
                self.sums[name] = self.sums.get(name, 0.0) + len(samples) * float(value)
        self.images += len(samples)

    def _average(self) -> None:
        """Sums over all processes, so that all follow the same value."""
        names = sorted(self.sums)
        sums = torch.tensor([self.images, *(self.sums[name] for name in names)], dtype=torch.float64)
        all_reduce(sums)
        for name, value in zip(names, (sums[1:] / sums[0]).tolist()):
            self.val_loss[name] = HistoryBuffer()
            self.val_loss[name].update(value)


def as_image_is_resized(sample: Any, resized_first: bool) -> Any:
    """Returns a copy of a sample whose annotations fit its resized image.

    Test pipelines load annotations after they resize the image, since metrics compare at the original size.

    Args:
        sample: As the data loader gives it.
        resized_first: Whether its annotations are still at the original size.

    Raises:
        ConfigError: If it has no annotations.
    """
    if 'gt_label' in sample:  # a classifier's
        return sample
    if not ({'gt_instances', 'gt_sem_seg', 'gt_panoptic_seg'} & set(sample.keys())):
        raise ConfigError(
            'val_cfg.type=ValLossLoop: no annotations to compare with; add LoadAnnotations to the pipeline'
        )
    sample = copy.deepcopy(sample)
    if not resized_first:
        return sample
    height, width = sample.img_shape[:2]
    scale = sample.get('scale_factor', (1.0, 1.0))[:2]
    for instances in (sample.get('gt_instances'), sample.get('ignored_instances')):
        if instances is not None and 'bboxes' in instances:
            if torch.is_tensor(instances.bboxes):
                instances.bboxes = instances.bboxes * instances.bboxes.new_tensor((*scale, *scale))
            else:
                instances.bboxes.rescale_(scale)
        if instances is not None and 'masks' in instances:
            instances.masks = instances.masks.resize((height, width))
    for name in ('gt_sem_seg', 'gt_panoptic_seg'):
        if name in sample:
            label_map = sample.get(name)
            key = next(iter(label_map.keys()))
            resized = interpolate(label_map.get(key)[None].float(), (height, width)).to(label_map.get(key).dtype)[0]
            sample.set_field(type(label_map)(**{key: resized}), name, dtype=type(label_map))
    return sample


def _resized_before_annotations(dataset: Any) -> bool:
    """Returns whether a data set's pipeline resizes images before it loads annotations."""
    while hasattr(dataset, 'dataset') or hasattr(dataset, 'datasets'):
        dataset = dataset.dataset if hasattr(dataset, 'dataset') else dataset.datasets[0]
    names = [type(transform).__name__ for transform in getattr(getattr(dataset, 'pipeline', None), 'transforms', ())]
    loads = [i for i, name in enumerate(names) if name.startswith('Load') and 'Annotations' in name]
    resizes = [i for i, name in enumerate(names) if 'Resize' in name]
    return bool(loads and resizes) and min(resizes) < max(loads)
