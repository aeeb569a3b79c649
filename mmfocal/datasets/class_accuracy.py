"""The accuracy of each class."""

from collections import Counter
from collections.abc import Sequence

import torch
from mmengine.logging import MMLogger
from mmpretrain.evaluation import Accuracy
from mmpretrain.registry import METRICS


@METRICS.register_module()
class ClassAccuracy(Accuracy):
    """The top-1 accuracy of each class, in percent: `accuracy/NAME_top1`, and as a table in the log.

    It stands beside MMPretrain's `Accuracy`, as `--classwise` sets it. A class without images has NaN.
    """

    @property
    def keys(self) -> list[str]:
        """Names of the metrics, without prefix, in the order of the classes."""
        return [f'{name}_top1' for name in distinct_names(self.dataset_meta['classes'])]

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Computes the accuracies by MMPretrain's function."""
        names = distinct_names(self.dataset_meta['classes'])
        targets = torch.cat([result['gt_label'] for result in results])
        key = 'pred_score' if 'pred_score' in results[0] else 'pred_label'
        found = torch.stack([result[key] for result in results])
        found = found if key == 'pred_score' else found.flatten()
        counts = torch.bincount(targets, minlength=len(names)).tolist()
        values = []
        for label, count in enumerate(counts):
            chosen = targets == label
            value = self.calculate(found[chosen], targets[chosen]) if count else float('nan')
            values.append(float(value[0][0] if isinstance(value, list) else value))
        MMLogger.get_current_instance().info(f'\n{_table(names, counts, values)}')
        return dict(zip(self.keys, values))


def distinct_names(classes: Sequence[str]) -> list[str]:
    """Returns the names of classes, with the label where several have the same name, as in ImageNet."""
    counts = Counter(map(str, classes))
    return [f'{name} ({label})' if counts[str(name)] > 1 else str(name) for label, name in enumerate(classes)]


def _table(names: list[str], counts: list[int], values: list[float]) -> str:
    width = max(map(len, names), default=5)
    rows = [f'{name:{width}}  {count:7}  {value:6.2f}' for name, count, value in zip(names, counts, values)]
    return '\n'.join([f'{"class":{width}}  {"images":>7}  {"top-1":>6}', *rows])
