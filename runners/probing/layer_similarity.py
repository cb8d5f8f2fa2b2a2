"""How alike the layers of an answer are, each with each: mean cosine of their rows, or linear CKA."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...loader.errors import UsageError
from ...loader.text import did_you_mean
from .reader import Probe

FEWEST_ROWS = 4  # what the unbiased estimator takes
_MOST_ROWS = 1_024  # evenly taken from all rows


@dataclass(frozen=True)
class LayerSimilarity:
    """A square of numbers over the kept layers `names`; None where two layers can't be compared (cosine between other widths)."""

    how: str
    rows: int
    names: tuple[str, ...]
    matrix: tuple[tuple[float | None, ...], ...]


def check_similarity(how: str) -> None:
    """Raises UsageError for a measure that is none."""
    if how not in MEASURES:
        raise UsageError(f"unknown similarity '{how}'", hint=did_you_mean(how, MEASURES) or f"known: {', '.join(MEASURES)}")


def layer_similarity(probe: Probe, how: str = "cosine") -> LayerSimilarity:
    """Every layer compared with every other, on at most 1,024 rows.

    `cosine`: of a row in one layer with the same row in the other, averaged. `cka`: linear centered kernel alignment, unbiased, which
    sees whether rows lie alike, whatever their basis and scale. Raises UsageError for another word, or for too few rows.
    """
    check_similarity(how)
    names = tuple(name for name in probe.names if "attentions" not in name)
    rows = {name: _sampled(probe, name) for name in names}
    there = torch.stack([each.isfinite().all(dim=1) for each in rows.values()]).all(dim=0)
    taken = {name: each[there] for name, each in rows.items()}
    count = int(there.sum())
    if count < FEWEST_ROWS:
        raise UsageError(f"{count} of the {FEWEST_ROWS} rows that it takes to compare layers", hint="give more texts, or --pool none")
    return LayerSimilarity(how, count, names, MEASURES[how](list(taken.values())))


def _sampled(probe: Probe, name: str) -> Tensor:
    total = sum(part.shape[0] for part in probe[name].parts)
    stride, first, taken = max(1, -(-total // _MOST_ROWS)), 0, []
    for part in probe[name].parts:
        taken.append(part[(-first) % stride :: stride].float())
        first += part.shape[0]
    return torch.cat(taken)


def _cosines(layers: list[Tensor]) -> tuple[tuple[float | None, ...], ...]:
    units = [torch.nn.functional.normalize(rows, dim=1) for rows in layers]
    return tuple(tuple(float((one * other).sum(dim=1).mean()) if one.shape == other.shape else None for other in units) for one in units)


def _alignments(layers: list[Tensor]) -> tuple[tuple[float | None, ...], ...]:
    """Linear CKA from kernels without their diagonals, by the unbiased estimator of HSIC (Song et al., 2012)."""
    kernels = [rows @ rows.T for rows in layers]
    for kernel in kernels:
        kernel.fill_diagonal_(0)
    dependence = [[_hsic(one, other) for other in kernels] for one in kernels]
    own = [max(dependence[number][number], 1e-30) for number in range(len(kernels))]
    return tuple(tuple(value / (own[row] * own[column]) ** 0.5 for column, value in enumerate(line)) for row, line in enumerate(dependence))


def _hsic(one: Tensor, other: Tensor) -> float:
    count = one.shape[0]
    first, second = one.double().sum(dim=0), other.double().sum(dim=0)
    traced = float((one.double() * other.double()).sum())
    sums = float(first.sum() * second.sum()) / ((count - 1) * (count - 2))
    return (traced + sums - 2 * float(first @ second) / (count - 2)) / (count * (count - 3))


MEASURES: Mapping[str, Callable[[list[Tensor]], tuple[tuple[float | None, ...], ...]]] = {"cosine": _cosines, "cka": _alignments}
