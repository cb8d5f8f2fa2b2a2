"""HQQ in one compiled pass: all turns of the search for one group of weights, then for the next, which takes adding up as torch does."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .compiled import as_bits, compiled
from .pieces import in_pieces

_SIZES = (32, 64, 128, 256, 512)  # of groups: parts of the 512 elements that torch adds up before it begins anew
_LANES = 32
_TORCH_GRAIN = 32_768
_SAMPLE = 512  # groups for each thread

Floats = NDArray[np.float32]


def quantize(
    weights: Tensor, *, largest_code: int, iterations: int, largest_error: float, round_zero: bool, threads: int | None
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Codes, scales and zero points of groups, which are the rows of `weights`.

    None without numba, for groups of another size, where torch adds up in another order, and where an error reaches `largest_error`.
    """
    shares = _shares(weights.numel())
    if weights.shape[1] not in _SIZES or len(weights) % shares or not adds_up_as_torch(_SAMPLE, torch.get_num_threads()):
        return None
    code = np.float32(largest_code)
    scales, zeros, errors, worst = _searched(weights, shares, code, iterations, round_zero, threads)
    if not worst < largest_error:
        return None
    chosen = zeros[_last_turn(errors)].copy()
    codes = _codes(weights, shares, code, scales, chosen, threads)
    return codes, torch.from_numpy(scales).unsqueeze(1), torch.from_numpy(chosen).unsqueeze(1)


def _searched(
    weights: Tensor, shares: int, largest_code: np.float32, iterations: int, round_zero: bool, threads: int | None
) -> tuple[Floats, Floats, list[float], float]:
    """Scales; zero points at first and, below, after each turn; the mean error of each turn, and the largest of all."""
    loop = compiled("hqq_search", weights.dtype)
    assert loop is not None
    groups = len(weights) // shares
    power = max(4, (groups * weights.shape[1] // _LANES - 1).bit_length() // 4)
    scales, zeros = np.empty(len(weights), np.float32), np.empty((iterations + 1, len(weights)), np.float32)
    totals = np.zeros((1 if shares == 1 else torch.get_num_threads(), iterations), np.float32)
    worst = np.zeros(shares, np.uint32)

    def work(share: int, _: int) -> None:
        part = slice(share * groups, (share + 1) * groups)
        bits, into = as_bits(weights[part].reshape(-1)), (scales[part], zeros[:, part], totals[share])
        worst[share] = loop(*bits, largest_code, round_zero, power, *into)

    in_pieces(work, shares, piece=1, threads=threads)
    errors = torch.from_numpy(totals.T.copy()).sum(1) / weights.numel()
    return scales, zeros, errors.tolist(), float(worst.view(np.float32).max())


def _last_turn(errors: list[float]) -> int:
    """The turn after which the library stops: the first that makes nothing better."""
    return next((turn + 1 for turn in range(1, len(errors)) if not errors[turn] < errors[turn - 1]), len(errors))


def _codes(weights: Tensor, shares: int, largest_code: np.float32, scales: Floats, zeros: Floats, threads: int | None) -> Tensor:
    loop = compiled("hqq_codes", weights.dtype)
    assert loop is not None
    codes = torch.empty(weights.shape, dtype=torch.uint8)

    def work(start: int, end: int) -> None:
        loop(*as_bits(weights[start:end].reshape(-1)), largest_code, scales[start:end], zeros[start:end], codes[start:end].view(-1).numpy())

    in_pieces(work, len(weights), piece=len(weights) // shares, threads=threads)
    return codes


def _shares(count: int) -> int:
    """How many threads torch shares a sum of so many elements among."""
    return min(torch.get_num_threads(), -(-count // _TORCH_GRAIN))


@cache
def adds_up_as_torch(groups: int, threads: int) -> bool:
    """Whether the loop is there and gives torch's sums: their last bits depend on its vectors, and on the `threads` that share them."""
    if compiled("hqq_search", torch.float32) is None:
        return False
    weights = torch.rand(groups * threads, 64, generator=torch.Generator().manual_seed(0))
    scales, zeros, errors, _ = _searched(weights, _shares(weights.numel()), np.float32(15), 1, False, 1)
    scale, zero = torch.from_numpy(scales).unsqueeze(1), torch.from_numpy(zeros[0]).unsqueeze(1)
    codes = (weights * scale + zero).round_().clamp_(0, 15)
    means = (codes - weights * scale).mean(1)
    return torch.equal(torch.from_numpy(zeros[1]), means) and errors[0] == (weights - (codes - zero) / scale).abs().mean().item()
