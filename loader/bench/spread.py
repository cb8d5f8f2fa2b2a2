"""Numbers of several runs in few: middle and ends, and how sure one can be of a ratio."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

_RESAMPLES = 2_000
_FEWEST = 3  # pairs of which an interval is told
_CONFIDENCE = 0.95
_NEAR = 0.1


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, smallest and largest of some numbers."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one number at least."""
        return cls(median(values), min(values), max(values))

    @property
    def width(self) -> float:
        """How far the ends lie apart, as a share of the middle."""
        return (self.max - self.min) / self.median if self.median else 0.0


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as large, and the interval in which that lies with 95 % confidence (None with less than three pairs)."""

    median: float
    low: float | None
    high: float | None

    @property
    def is_unclear(self) -> bool:
        """Whether it may be more than 1 or less, and not just because it is near."""
        return self.low is not None and self.high is not None and self.low < 1 < self.high and self.high - self.low > _NEAR

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]]) -> Ratio:
        """The median of first to second, pair by pair; the interval by bootstrap over the pairs, the same at every call."""
        ratios = [first / second for first, second in pairs]
        if len(ratios) < _FEWEST:
            return cls(median(ratios), None, None)
        drawn = bootstrap(lambda draw: median(draw(ratios)))
        edge = round(len(drawn) * (1 - _CONFIDENCE) / 2)
        return cls(median(ratios), drawn[edge], drawn[-edge - 1])


def bootstrap(estimate: Callable[[Callable[[Sequence[float]], list[float]]], float]) -> list[float]:
    """Estimates from samples drawn anew, in ascending order. `estimate` is given what draws as many as there are, some of them twice."""
    source = random.Random(0)
    return sorted(estimate(lambda values: source.choices(values, k=len(values))) for _ in range(_RESAMPLES))
