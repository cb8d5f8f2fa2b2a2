"""4-bit weights in the order in which bitsandbytes' loop for AVX-512 reads them: what its layers make of theirs at their first forward.

`state` is the library's QuantState everywhere.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ROWS = 32  # that lie together: half of them in the low bits of each byte, half in the high ones
_BLOCKS_AT_ONCE = 8


def can_be_packed(state: Any) -> bool:
    """Whether the loop can compute with a matrix of this shape, in blocks of this size."""
    rows, columns = state.shape
    return rows % _ROWS == 0 and columns % 2 == 0 and columns % state.blocksize == 0


def packed_codes(codes: Tensor, state: Any) -> Tensor:
    """The codes, two a byte, of a matrix that `can_be_packed`."""
    rows, columns = state.shape
    blocks = codes.view(torch.uint8).view(rows // _ROWS, 2, _ROWS // 2, columns // 2)
    packed = torch.empty(rows, columns // 2, dtype=torch.uint8)
    by_column = packed.view(rows // _ROWS, columns // 2, _ROWS // 2, 2).transpose(1, 2)
    for start in range(0, len(blocks), _BLOCKS_AT_ONCE):
        low, high = blocks[start : start + _BLOCKS_AT_ONCE].unbind(1)
        into = by_column[start : start + _BLOCKS_AT_ONCE]
        into[..., 0] = (high & 0xF0) | (low >> 4)
        into[..., 1] = (high << 4) | (low & 0x0F)
    return packed


def packed_scales(state: Any) -> Tensor:
    """The largest magnitude of each block, a row for each column of blocks."""
    from bitsandbytes.functional import dequantize_blockwise

    scales = state.absmax
    if state.nested:
        scales = dequantize_blockwise(scales, state.state2) + state.offset
    rows, columns = state.shape
    return scales.float().reshape(rows, columns // state.blocksize).T.to(torch.bfloat16).contiguous()
