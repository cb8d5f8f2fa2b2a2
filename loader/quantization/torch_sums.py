"""Sums as torch shares them among its threads, on a thread where it has none to share them with."""

from __future__ import annotations

import torch
from torch import Tensor

_GRAIN = 32_768  # elements below which torch does not share


def shares(count: int, torch_threads: int) -> int:
    """How many of its threads torch shares a sum of `count` elements among."""
    return min(torch_threads, -(-count // _GRAIN))


def mean(values: Tensor, torch_threads: int) -> Tensor:
    """The mean of contiguous `values` as it is where torch has so many threads: here it has as many, or one."""
    if torch.get_num_threads() == torch_threads:
        return values.mean()
    parts = values.view(-1).split(-(-values.numel() // shares(values.numel(), torch_threads)))
    return total(torch.stack([part.sum() for part in parts]), torch_threads) / values.numel()


def total(sums: Tensor, torch_threads: int) -> Tensor:
    """What becomes of the shares' `sums`, which may be those of several rows, one a column."""
    padded = sums.new_zeros(1 if len(sums) == 1 else torch_threads, *sums.shape[1:])
    padded[: len(sums)] = sums
    return padded.movedim(0, -1).contiguous().sum(-1)
