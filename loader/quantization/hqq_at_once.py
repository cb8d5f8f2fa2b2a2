"""HQQ in one compiled pass: all turns of the search for one group of weights, then for the next, which takes adding up as torch does."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .compiled import as_bits, compiled
from .pieces import in_pieces
from .torch_sums import mean, shares, total

_SIZES = (32, 64, 128, 256, 512)  # of groups: parts of the 512 elements that torch adds up before it begins anew
_LANES = 32

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Task:
    """Groups, which are the rows of `weights`, and what is asked of them. `torch_threads` share the library's sums, `threads` the work."""

    weights: Tensor
    largest_code: int
    round_zero: bool
    iterations: int
    threads: int | None
    torch_threads: int

    @property
    def shares(self) -> int:
        """Parts of the weights that are added up each for itself."""
        return shares(self.weights.numel(), self.torch_threads)


def quantize(task: Task, *, largest_error: float) -> tuple[Tensor, Tensor, Tensor] | None:
    """Codes, scales and zero points.

    None without numba, for groups of another size, where torch adds up in another order, and where an error reaches `largest_error`.
    """
    groups, size = task.weights.shape
    if size not in _SIZES or groups % task.shares or not adds_up_as_torch(512, task.torch_threads):
        return None
    scales, zeros, errors, worst = _searched(task)
    if not worst < largest_error:
        return None
    chosen = zeros[_last_turn(errors)].copy()
    return _codes(task, scales, chosen), torch.from_numpy(scales).unsqueeze(1), torch.from_numpy(chosen).unsqueeze(1)


def _searched(task: Task) -> tuple[Floats, Floats, list[float], float]:
    """Scales; zero points at first and, below, after each turn; the mean error of each turn, and the largest of all."""
    loop = compiled("hqq_search", task.weights.dtype)
    assert loop is not None
    share = len(task.weights) // task.shares
    power = max(4, (share * task.weights.shape[1] // _LANES - 1).bit_length() // 4)
    scales = np.empty(len(task.weights), np.float32)
    zeros = np.empty((task.iterations + 1, len(scales)), np.float32)
    sums = np.empty((task.shares, task.iterations), np.float32)
    worst = np.empty(task.shares, np.uint32)

    def work(number: int, _: int) -> None:
        part = slice(number * share, (number + 1) * share)
        bits, into = as_bits(task.weights[part].reshape(-1)), (scales[part], zeros[:, part], sums[number])
        worst[number] = loop(*bits, np.float32(task.largest_code), task.round_zero, power, *into)

    in_pieces(work, task.shares, piece=1, threads=task.threads)
    errors = total(torch.from_numpy(sums), task.torch_threads) / task.weights.numel()
    return scales, zeros, errors.tolist(), float(worst.view(np.float32).max())


def _last_turn(errors: list[float]) -> int:
    """The turn after which the library stops: the first that makes nothing better."""
    return next((turn + 1 for turn in range(1, len(errors)) if not errors[turn] < errors[turn - 1]), len(errors))


def _codes(task: Task, scales: Floats, zeros: Floats) -> Tensor:
    loop = compiled("hqq_codes", task.weights.dtype)
    assert loop is not None
    codes = torch.empty(task.weights.shape, dtype=torch.uint8)

    def work(start: int, end: int) -> None:
        part = slice(start, end)
        bits, into = as_bits(task.weights[part].reshape(-1)), codes[part].view(-1).numpy()
        loop(*bits, np.float32(task.largest_code), scales[part], zeros[part], into)

    in_pieces(work, len(scales), piece=len(scales) // task.shares, threads=task.threads)
    return codes


@cache
def adds_up_as_torch(groups: int, torch_threads: int) -> bool:
    """Whether the loop is there and its sums, with so many groups for each of torch's threads, are torch's: its vectors may be others."""
    if compiled("hqq_search", torch.float32) is None:
        return False
    weights = torch.rand(groups * torch_threads, 64, generator=torch.Generator().manual_seed(0))
    scales, zeros, errors, _ = _searched(Task(weights, 15, False, 1, 1, torch_threads))
    scale, zero = torch.from_numpy(scales).unsqueeze(1), torch.from_numpy(zeros[0]).unsqueeze(1)
    codes = (weights * scale + zero).round_().clamp_(0, 15)
    found = (torch.from_numpy(zeros[1]), torch.tensor(errors[0]))
    expected = ((codes - weights * scale).mean(1), mean((weights - (codes - zero) / scale).abs(), torch_threads))
    return all(map(torch.equal, found, expected))
