"""NF4 and FP4 as `bitsandbytes.functional.quantize_4bit` makes them on a CPU, bit for bit."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .compiled import as_bits, compiled
from .pieces import LONG_PIECE, PIECE, Allocate, fresh, in_pieces

if TYPE_CHECKING:
    from bitsandbytes.functional import QuantState

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_LEAST = 1e-38  # bitsandbytes divides by no less


class _Table(NamedTuple):
    """Values at or below `bounds[i]` add `steps[i]` to the code `last` of the largest values."""

    bounds: tuple[np.float32, ...]
    steps: tuple[np.int32, ...]
    last: np.int32


def quantize(
    weight: Tensor,
    *,
    quant_type: str,
    blocksize: int = 64,
    use_numba: bool = False,
    threads: int | None = None,
    allocate: Allocate = fresh,
    allocate_absmax: Allocate = fresh,
) -> tuple[Tensor, Tensor]:
    """Codes, two a byte, as a column of uint8, and the largest magnitude of each block in float32."""
    flat = weight.detach().reshape(-1)
    whole = flat.numel() // blocksize * blocksize
    if flat.device.type != "cpu" or flat.dtype not in _DTYPES or PIECE % blocksize or not whole:
        return _by_the_library(flat, quant_type, blocksize)
    packed = allocate((whole // 2,), torch.uint8)
    absmax = allocate_absmax((whole // blocksize,), torch.float32)
    table, loop = _table(quant_type), compiled("four_bit", flat.dtype) if use_numba else None

    def work(start: int, end: int) -> None:
        codes, largest = packed[start // 2 : end // 2], absmax[start // blocksize : end // blocksize]
        if loop is None:
            _piece(flat[start:end].float(), table, codes, largest)
        else:
            loop(*as_bits(flat[start:end]), *table, codes.numpy(), largest.numpy())

    in_pieces(work, whole, piece=PIECE if loop is None or flat.dtype == torch.float16 else LONG_PIECE, threads=threads)
    if np.isnan(absmax.numpy()).any():  # which of several NaN comes out depends on the library's order
        return _by_the_library(flat, quant_type, blocksize)
    if whole == flat.numel():
        return packed.unsqueeze(1), absmax
    rest = _by_the_library(flat[whole:], quant_type, blocksize)
    return torch.cat([packed.unsqueeze(1), rest[0]]), torch.cat([absmax, rest[1]])


def quant_state(
    absmax: Tensor, *, quant_type: str, blocksize: int, shape: torch.Size, dtype: torch.dtype, double_quant: bool
) -> QuantState:
    """The library's description of quantized weights; `double_quant` turns absmax into 8-bit codes around its mean."""
    from bitsandbytes.functional import QuantState, get_4bit_type, quantize_blockwise

    code = get_4bit_type(quant_type, device=absmax.device, blocksize=blocksize)
    state = QuantState(absmax=absmax, shape=shape, dtype=dtype, blocksize=blocksize, code=code, quant_type=quant_type)
    if double_quant:
        state.offset = absmax.mean()
        state.absmax, state.state2 = quantize_blockwise(absmax - state.offset, blocksize=256)
        state.nested = True
    return state


def _by_the_library(flat: Tensor, quant_type: str, blocksize: int) -> tuple[Tensor, Tensor]:
    from bitsandbytes.functional import quantize_4bit

    packed, state = quantize_4bit(flat, blocksize=blocksize, quant_type=quant_type)
    return packed, state.absmax


@cache
def _table(quant_type: str) -> _Table:
    """Midpoints between neighbouring values; the codes of FP4 are not in the order of their values."""
    from bitsandbytes.functional import get_4bit_type

    values = get_4bit_type(quant_type, device="cpu")
    codes = torch.argsort(values)
    bounds = (values[codes[:-1]] + values[codes[1:]]) / 2
    steps = (codes[:-1] - codes[1:]).int()
    return _Table(tuple(bounds.numpy()), tuple(steps.numpy()), np.int32(codes[-1]))


def _piece(values: Tensor, table: _Table, packed: Tensor, absmax: Tensor) -> None:
    """Fifteen compares in place; a NaN is below nothing."""
    blocks = values.view(len(absmax), -1)
    torch.amax(blocks.abs(), 1, out=absmax)
    scaled = blocks * (1.0 / absmax.clamp(min=_LEAST)).unsqueeze(1)
    codes = torch.full(scaled.shape, int(table.last), dtype=torch.uint8)
    below = torch.empty(scaled.shape, dtype=torch.bool)
    for bound, step in zip(table.bounds, table.steps, strict=True):
        codes.add_(torch.le(scaled, float(bound), out=below).view(torch.uint8), alpha=int(step))
    pairs = codes.view(-1).view(torch.int16)
    packed.copy_((pairs << 4) | (pairs >> 8))
