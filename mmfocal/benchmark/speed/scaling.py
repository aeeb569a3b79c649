"""How time and memory grow with the image's area."""

from collections.abc import Sequence

import torch

from mmfocal.benchmark.speed.comparison import Comparison

Point = tuple[tuple[int, int], float, int | None]  # height and width, seconds, bytes


def scaling_points(comparisons: list[Comparison]) -> dict[str, tuple[str, list[Point]]]:
    """Returns name → label and points by area, for each implementation that ran."""
    found: dict[str, tuple[str, list[Point]]] = {}
    for comparison in sorted(comparisons, key=lambda one: one.case.height * one.case.width):
        for result in comparison.results:
            if result.ok:
                size = comparison.case.height, comparison.case.width
                found.setdefault(result.name, (result.label, []))[1].append((size, result.median, result.memory))
    return found


def scaling_exponents(points: Sequence[Point], larger_half: bool = False) -> tuple[float | None, float | None]:
    """Fits value ∝ area^p by least squares of the logarithms; p = 1 is linear.

    Args:
        points: One implementation's of `scaling_points`.
        larger_half: Use the larger half of the sizes only, at least two. Over small sizes memory is mostly weights, and
            time partly overhead.

    Returns:
        p of time and of memory; None where there are fewer than two areas.
    """
    if larger_half:
        points = points[min(len(points) // 2, max(len(points) - 2, 0)) :]
    exponents = []
    for column in (1, 2):
        measured = [(height * width, value) for (height, width), *values in points if (value := values[column - 1])]
        exponents.append(_slope(measured) if len({area for area, _ in measured}) > 1 else None)
    return exponents[0], exponents[1]


def _slope(points: list[tuple[int, float]]) -> float:
    x, y = torch.tensor(points, dtype=torch.float64).log().T
    x = x - x.mean()
    return float((x * y).sum() / (x * x).sum())
