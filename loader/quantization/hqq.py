"""HQQ as `hqq.core.quantize.Quantizer.quantize` makes it on a CPU, bit for bit.

The library goes over all weights up to twenty times, and stops once their mean error does not fall. Two things make that short. A group
whose zero point has not moved is done: nothing about it changes from there on. And the library's shrinking operator, which takes a power
of each error, gives exactly 0 for errors below 0.17, which hardly a weight ever reaches. Where none does, groups along axis 1 can be
quantized one after the other (hqq_at_once.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import hqq_at_once
from .pieces import PIECE, in_pieces
from .torch_sums import mean, shares

_ITERATIONS, _BETA, _LP_NORM = 20, 10.0, 0.7  # the library's defaults
_NO_SHRINKING = 0.16  # |x| - |x|**-0.3 / 10 is below 0 for every |x| < 0.1 ** (1 / 1.3) = 0.1701
_VECTOR = 32  # torch computes powers of this many elements at once, and a rest of fewer by another function with other last bits


@torch.no_grad()
def quantize(
    weight: Tensor,
    *,
    nbits: float = 4,
    group_size: int | None = 64,
    axis: int = 0,
    round_zero: bool = False,
    use_numba: bool = False,
    threads: int | None = None,
    torch_threads: int | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """Packed codes, and what the library tells of them: `scale`, `zero`, `shape` and the settings.

    `torch_threads` is how many share the library's sums, whose last bits depend on it: where it is called, if not here.
    """
    from hqq.core.quantize import Quantizer

    torch_threads = torch_threads or torch.get_num_threads()
    settings: dict[str, Any] = {"nbits": nbits, "group_size": group_size, "axis": axis, "round_zero": round_zero}
    weights, largest_code = _in_groups(weight, group_size, axis), round(2**nbits - 1)
    found = None if weights is None else _found(weights, largest_code, axis, round_zero, use_numba, threads, torch_threads)
    if found is None:
        return Quantizer.quantize(weight, **settings, device=weight.device.type)
    codes, scale, zero = found
    packing = Quantizer.bit_to_packing[nbits]
    described = {
        "nbits": nbits,
        "group_size": group_size,
        "shape": weight.shape,
        "scale": 1.0 / scale,
        "zero": zero,
        "axis": axis,
        "packing": packing,
        "unpack_view_dtype": Quantizer.unpack_view_dtype[packing],
        "view_as_float": False,
    }
    return Quantizer.pack[packing](codes), described


def _in_groups(weight: Tensor, group_size: int | None, axis: int) -> Tensor | None:
    """The matrix with groups for its rows (`axis` 1) or columns. None where only the library knows what comes out."""
    if weight.device.type != "cpu" or weight.dim() != 2 or not weight.numel() or weight.numel() % (group_size or 1):
        return None
    weights = weight.detach()
    if group_size is not None:
        weights = weights.reshape([-1, group_size] if axis == 1 else [group_size, -1])
    return None if weights.shape[axis] > PIECE else weights


def _found(
    weights: Tensor, largest_code: int, axis: int, round_zero: bool, use_numba: bool, threads: int | None, torch_threads: int
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Codes, scales and zero points as the library finds them; None where only it can."""
    if use_numba and axis == 1:
        task = hqq_at_once.Task(weights, largest_code, round_zero, _ITERATIONS, threads, torch_threads)
        if (found := hqq_at_once.quantize(task, largest_error=_NO_SHRINKING)) is not None:
            return found
    groups = _groups(weights, largest_code, axis, threads)
    if groups is None:
        return None
    if round_zero:
        groups.zero.round_()
    try:
        _Search(groups, threads, torch_threads).run()
    except _PowersDiffer:
        return None
    return _codes(groups, threads), groups.scale, groups.zero


@dataclass
class _Groups:
    """A matrix whose groups of weights are its rows (`axis` 1) or columns (`axis` 0), with a scale and a zero point for each."""

    weights: Tensor
    axis: int
    largest_code: int
    scale: Tensor
    zero: Tensor

    @property
    def count(self) -> int:
        return self.weights.shape[1 - self.axis]

    @property
    def at_once(self) -> int:
        return max(1, PIECE // self.weights.shape[self.axis])

    def of(self, values: Tensor, start: int, end: int, which: Tensor | None = None) -> Tensor:
        """What `values` hold for a range of the groups, or of those named by `which`."""
        if which is None:
            return values.narrow(1 - self.axis, start, end - start)
        return values.index_select(1 - self.axis, which[start:end])

    def put(self, values: Tensor, new: Tensor, start: int, end: int, which: Tensor | None) -> None:
        if which is None:
            self.of(values, start, end).copy_(new)
        else:
            values.index_copy_(1 - self.axis, which[start:end], new)


def _groups(weights: Tensor, largest_code: int, axis: int, threads: int | None) -> _Groups | None:
    """Groups with the scales that the library begins with. None where only the library knows what comes out."""
    least = torch.empty([1, weights.shape[1]] if axis == 0 else [weights.shape[0], 1])
    groups = _Groups(weights, axis, largest_code, torch.empty_like(least), least)
    most = groups.scale

    def work(start: int, end: int) -> None:
        values = groups.of(weights, start, end).float()
        groups.of(least, start, end).copy_(values.amin(axis, keepdim=True))
        groups.of(most, start, end).copy_(values.amax(axis, keepdim=True))

    in_pieces(work, groups.count, piece=groups.at_once, threads=threads)
    width = most - least
    if not (width.isfinite().all() and least.isfinite().all()):
        return None
    groups.scale = torch.where(width <= 1e-4, 1.0, largest_code / width).clamp(max=2e4)
    groups.zero = -least * groups.scale
    return groups


class _PowersDiffer(Exception):
    """Powers are needed whose last bits can't be had piece by piece."""


class _Search:
    """The library's search for better zero points, on those groups only that still move."""

    def __init__(self, groups: _Groups, threads: int | None, torch_threads: int) -> None:
        self._groups, self._threads, self._torch_threads = groups, threads, torch_threads
        self._errors = torch.empty(groups.weights.shape)
        # Sums down a column differ in their last bits with the column's place: columns are summed as the library does, all at once.
        self._rests = torch.empty(groups.weights.shape) if groups.axis == 0 else None
        self._zero = groups.zero.clone()
        self._moving: Tensor | None = None
        self._powers_alike = _powers_are_alike(groups.weights.numel(), torch_threads)

    def run(self) -> None:
        """Leave the zero points in `groups` that the library would. Raises _PowersDiffer."""
        groups, best = self._groups, torch.tensor(torch.inf)
        for _ in range(_ITERATIONS):
            count = groups.count if self._moving is None else len(self._moving)
            in_pieces(self._step, count, piece=groups.at_once, threads=self._threads)
            if self._rests is not None:
                self._zero = self._rests.mean(0, keepdim=True)
            moved = self._zero.view(torch.int32) != groups.zero.view(torch.int32)
            groups.zero.copy_(self._zero)
            self._moving = moved.flatten().nonzero().flatten()
            error = mean(
                self._errors, self._torch_threads
            )  # over all weights in the library's order: this number's last bit decides when it stops
            if not error < best or not len(self._moving):
                return
            best = error

    def _step(self, start: int, end: int) -> None:
        groups, which = self._groups, self._moving
        weights, scale, zero = (groups.of(values, start, end, which) for values in (groups.weights, groups.scale, groups.zero))
        weights = weights.float()
        scaled = weights * scale
        codes = (scaled + zero).round_().clamp_(0, groups.largest_code)
        error = weights - (codes - zero) / scale
        magnitude = error.abs()
        if magnitude.max() >= _NO_SHRINKING:
            scaled = (weights - self._shrunk(error)) * scale
        groups.put(self._errors, magnitude, start, end, which)
        rest = codes - scaled
        if self._rests is None:
            groups.put(self._zero, rest.mean(1, keepdim=True), start, end, which)
        else:
            groups.put(self._rests, rest, start, end, which)

    def _shrunk(self, error: Tensor) -> Tensor:
        from hqq.core.optimize import shrink_lp_op

        if not self._powers_alike:
            raise _PowersDiffer
        whole = torch.nn.functional.pad(error.flatten(), (0, -error.numel() % _VECTOR))
        return shrink_lp_op(whole, _BETA, _LP_NORM)[: error.numel()].view(error.shape)


def _powers_are_alike(count: int, torch_threads: int) -> bool:
    """Whether torch would compute powers of so many elements, shared among its threads, in whole vectors only."""
    return count % _VECTOR == 0 and -(-count // shares(count, torch_threads)) % _VECTOR == 0


def _codes(groups: _Groups, threads: int | None) -> Tensor:
    codes = torch.empty(groups.weights.shape, dtype=torch.uint8)

    def work(start: int, end: int) -> None:
        weights, scale, zero = (groups.of(values, start, end) for values in (groups.weights, groups.scale, groups.zero))
        groups.of(codes, start, end).copy_((weights.float() * scale + zero).round_().clamp_(0, groups.largest_code))

    in_pieces(work, groups.count, piece=groups.at_once, threads=threads)
    return codes
