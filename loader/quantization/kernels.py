"""Loops over weights, written for a compiler (compiled.py). Never called as they are: Python would take minutes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


def four_bit(
    weights: Floats, bounds: tuple[np.float32, ...], steps: tuple[np.int32, ...], last: np.int32, packed: Bytes, absmax: Floats
) -> None:
    """NF4 or FP4 codes of whole blocks. `steps[i]` is what a code gains for a value at or below `bounds[i]`; `last` is that above all."""
    blocksize = len(weights) // len(absmax)
    codes = np.empty(blocksize, np.uint8)
    pairs = codes.view(np.uint16)
    half = blocksize // 2
    for block in range(len(absmax)):
        values = weights[block * blocksize : (block + 1) * blocksize]
        bits = values.view(np.int32)
        largest = np.int32(0)  # as bits, magnitudes are ordered like integers, NaN above all
        for i in range(blocksize):
            largest = max(largest, bits[i] & np.int32(0x7FFFFFFF))
        absmax.view(np.int32)[block] = largest
        inverse = np.float32(1) / max(absmax[block], np.float32(1e-38))
        for i in range(blocksize):
            value = values[i] * inverse
            # All fifteen written out: in a loop they are not turned into vector instructions, and 25 times slower.
            codes[i] = (
                last
                + np.int32(value <= bounds[0]) * steps[0]
                + np.int32(value <= bounds[1]) * steps[1]
                + np.int32(value <= bounds[2]) * steps[2]
                + np.int32(value <= bounds[3]) * steps[3]
                + np.int32(value <= bounds[4]) * steps[4]
                + np.int32(value <= bounds[5]) * steps[5]
                + np.int32(value <= bounds[6]) * steps[6]
                + np.int32(value <= bounds[7]) * steps[7]
                + np.int32(value <= bounds[8]) * steps[8]
                + np.int32(value <= bounds[9]) * steps[9]
                + np.int32(value <= bounds[10]) * steps[10]
                + np.int32(value <= bounds[11]) * steps[11]
                + np.int32(value <= bounds[12]) * steps[12]
                + np.int32(value <= bounds[13]) * steps[13]
                + np.int32(value <= bounds[14]) * steps[14]
            )
        row = packed[block * half : (block + 1) * half]
        for i in range(half):
            row[i] = (pairs[i] << 4) | (pairs[i] >> 8)


SIGNATURES = {
    "four_bit": "void(float32[::1], UniTuple(float32, 15), UniTuple(int32, 15), int32, uint8[::1], float32[::1])",
}
