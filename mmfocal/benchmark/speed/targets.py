"""What the operator is to reach, for `tools/benchmark.py speed --all`: each row a measure, what it must be, and its aim."""

from dataclasses import dataclass

import torch

from mmfocal.benchmark.speed.contenders import ARCHS, Case
from mmfocal.benchmark.speed.measure import ratio


@dataclass(frozen=True)
class Target:
    """One row.

    Args:
        text (str): What is measured.
        cases (Tuple[Case]): The cases that it needs.
        measure (str): 'time' or 'memory' over Swin's, at most; 'speed-up' over roll + unfold, or 'share' of the machine's
            rate, at least.
        must (float, optional): None: the measured value is to be stated, whatever it is.
        aim (float): What would be good.
    """

    text: str
    cases: tuple[Case, ...]
    measure: str
    must: float | None
    aim: float

    @property
    def sign(self) -> str:
        return '≤' if self.measure in ('time', 'memory') else '≥'

    def value(self, comparisons: list) -> tuple[float | None, str]:
        """Reads the measured value off the comparisons.

        Args:
            comparisons (List[Comparison]): Of all cases.

        Returns:
            Tuple[Optional[float], str]: The measured value and what it was compared with; or None, and why there is none.
        """
        mine = [comparison for comparison in comparisons if comparison.case in self.cases]
        focal = [comparison['focal'] for comparison in mine]
        if len(mine) < len(self.cases) or not all(result and result.ok for result in focal):
            return None, next((result.reason for result in focal if result and result.reason), 'focal was not measured')
        if self.measure == 'share':
            return _share(mine), 'of what bounds it, all blocks'
        (comparison,) = mine
        rival = comparison['roll_unfold'] if self.measure == 'speed-up' else comparison[comparison.baseline]
        if rival is None or not rival.ok:
            return None, rival.reason if rival else 'no Swin could be measured'
        if self.measure == 'memory':
            if not focal[0].memory or not rival.memory:
                return None, focal[0].reason or rival.reason
            return focal[0].memory / rival.memory, rival.label
        over = ratio(focal[0], rival)[0]
        return 1 / over if self.measure == 'speed-up' else over, rival.label

    def verdict(self, value: float | None) -> str:
        """In a word or two."""
        if value is None:
            return 'not measured'

        def reached(goal):
            return value <= goal if self.sign == '≤' else value >= goal

        if reached(self.aim):
            return 'aim met'
        if self.must is None:
            return 'stated'
        return 'must met' if reached(self.must) else 'missed'


def _share(comparisons):
    """Least possible over measured time of all attention in a backbone: each stage as often as it has blocks."""
    blocks = [ARCHS[one.case.arch]['depths'][one.case.stage] for one in comparisons]
    least = sum(count * one.least_seconds for count, one in zip(blocks, comparisons))
    return least / sum(count * one['focal'].median for count, one in zip(blocks, comparisons))


def targets(device: str) -> list[Target]:
    """The rows for 'cpu' or 'cuda'."""
    if device == 'cpu':
        large = Case('backbone', 'forward', 800, 1216)
        small = Case('backbone', 'forward', 224, 224, batch=8)
        train = Case('backbone', 'train', 448, 448, batch=2)
        return [
            Target("inference, 800×1216, batch 1: time / Swin's", (large,), 'time', 1.15, 1.0),
            Target("inference, 224×224, batch 8: time / Swin's", (small,), 'time', 1.1, 0.95),
            Target("training step, 448×448, batch 2: time / Swin's", (train,), 'time', 1.25, 1.05),
            Target("peak memory of that step / Swin's", (train,), 'memory', 1.2, 1.0),
            Target('inference, 800×1216: speed-up over roll + unfold', (large,), 'speed-up', 2.5, 3.2),
        ]

    def case(what, mode, dtype, stage=None):
        return Case(what, mode, 800, 1216, batch=8, dtype=dtype, device='cuda', stage=stage)

    half = 'bfloat16' if torch.cuda.is_bf16_supported(including_emulation=False) else 'float16'
    infer, train = case('backbone', 'forward', half), case('backbone', 'train', half)
    rows = []
    for dtype in dict.fromkeys((half, 'float16')):
        rows.append(
            Target(f"inference, {dtype}: time / Swin's", (case('backbone', 'forward', dtype),), 'time', 1.1, 0.95)
        )
    rows += [
        Target(f"training step, mixed {half}: time / Swin's", (train,), 'time', 1.2, 1.0),
        Target("peak memory of that step / Swin's", (train,), 'memory', 1.2, 1.0),
    ]
    for mode in ('forward', 'train'):
        stages = tuple(case('attention', mode, half, stage) for stage in range(4))
        rows.append(
            Target(f'attention alone, {half}, {mode}: share of bandwidth or matrix rate', stages, 'share', None, 0.6)
        )
    return rows + [
        Target(f'inference, {half}: speed-up over roll + unfold', (infer,), 'speed-up', 3.0, 6.0),
        Target(f'training step, mixed {half}: speed-up over roll + unfold', (train,), 'speed-up', 3.0, 6.0),
    ]
