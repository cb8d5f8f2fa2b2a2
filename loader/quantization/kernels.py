"""Loops over weights, written for a compiler (compiled.py). Never called as they are: Python would take minutes.

Weights come as bits: `source` holds all 32 of each, or the upper 16 of bfloat16, which `shift` moves into their place. Magnitudes as bits
are ordered like integers, NaN above all; that, loops that do one thing, and no `if` inside them is what the compiler makes vectors of.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint16] | NDArray[np.uint32]
Floats = NDArray[np.float32]
Table = np.ndarray[tuple[int, int], np.dtype[np.float32]]


def four_bit(
    source: Bits,
    shift: np.uint32,
    bounds: tuple[np.float32, ...],
    steps: tuple[np.int32, ...],
    last: np.int32,
    packed: NDArray[np.uint8],
    absmax: Floats,
) -> None:
    """NF4 or FP4 codes of whole blocks. `steps[i]` is what a code gains for a value at or below `bounds[i]`; `last` is that above all."""
    blocksize = len(source) // len(absmax)
    words = np.empty(blocksize, np.uint32)
    weights = words.view(np.float32)
    codes = np.empty(blocksize, np.uint8)
    pairs = codes.view(np.uint16)
    half = blocksize // 2
    for block in range(len(absmax)):
        stored = source[block * blocksize : (block + 1) * blocksize]
        largest = np.uint32(0)
        for i in range(blocksize):
            words[i] = np.uint32(stored[i]) << shift
            largest = max(largest, words[i] & np.uint32(0x7FFFFFFF))
        absmax.view(np.uint32)[block] = largest
        inverse = np.float32(1) / max(absmax[block], np.float32(1e-38))
        for i in range(blocksize):
            value = weights[i] * inverse
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


def int8(source: Bits, shift: np.uint32, codes: NDArray[np.int8], absmax: Floats) -> None:
    """Rows rounded to float16, and their codes: 127 for a row's largest magnitude."""
    columns = len(source) // len(absmax)
    words = np.empty(columns, np.uint32)
    weights = words.view(np.float32)
    for row in range(len(absmax)):
        stored = source[row * columns : (row + 1) * columns]
        largest = np.uint32(0)
        for i in range(columns):
            words[i] = np.uint32(stored[i]) << shift
            largest = max(largest, words[i] & np.uint32(0x7FFFFFFF))
        # Bfloat16 is exact in float16 from 2 ** -17 to its end, and what is smaller gets the code 0 in a row that reaches 2 ** -9.
        if shift == np.uint32(0) or largest < np.uint32(0x3B000000) or largest > np.uint32(0x477FE000):
            largest = _round_to_float16(words)
        absmax.view(np.uint32)[row] = largest
        scale = np.float32(1) / absmax[row] * np.float32(127)
        into = codes[row * columns : (row + 1) * columns]
        for i in range(columns):
            into[i] = np.int32((weights[i] * scale + np.float32(12582912)) - np.float32(12582912))  # to the nearest integer


def _round_to_float16(words: NDArray[np.uint32]) -> np.uint32:
    """The numbers with these bits, rounded; returns the bits of the largest magnitude."""
    weights = words.view(np.float32)
    largest = np.uint32(0)
    for i in range(len(words)):
        sign = words[i] & np.uint32(0x80000000)
        magnitude = words[i] & np.uint32(0x7FFFFFFF)
        # Half to even at the last of float16's bits; infinity above its largest number.
        rounded = (magnitude + np.uint32(0xFFF) + ((magnitude >> np.uint32(13)) & np.uint32(1))) & np.uint32(0xFFFFE000)
        if rounded > np.uint32(0x477FE000):
            rounded = np.uint32(0x7F800000)
        words[i] = magnitude
        weights[i] = (weights[i] + np.float32(0.5)) - np.float32(0.5)  # the same where float16 has no more than 2 ** -24
        if magnitude >= np.uint32(0x38800000):
            words[i] = rounded
        largest = max(largest, words[i])
        words[i] = words[i] | sign
    return largest


def hqq_search(
    source: Bits, shift: np.uint32, largest_code: np.float32, round_zero: bool, power: int, scales: Floats, zeros: Table, totals: Floats
) -> np.uint32:
    """Scales of groups, and their zero points: at first, and after each turn of the search. Returns the bits of the largest error.

    `totals` gets the sum of all errors in each turn, added up in torch's order (`_add_up`).
    """
    size, turns = len(source) // len(scales), len(totals)
    words = np.empty(size, np.uint32)
    weights = words.view(np.float32)
    errors, rests = np.empty(size, np.float32), np.empty(size, np.float32)
    error_bits = errors.view(np.uint32)
    lanes, sums = np.empty(32, np.float32), np.zeros((4, turns, 32), np.float32)
    worst = np.uint32(0)
    for group in range(len(scales)):
        stored = source[group * size : (group + 1) * size]
        for i in range(size):
            words[i] = np.uint32(stored[i]) << shift
        scale, zero = _scale_and_zero(words, largest_code)
        if not scale > np.float32(0):
            return np.uint32(0x7F800000)
        zero = np.rint(zero) if round_zero else zero
        scales[group] = scale
        zeros[0, group] = zero
        moves = True
        for turn in range(turns):
            if moves:  # else nothing about the group changes any more
                before, zero = zero, _next_zero(weights, scale, zero, largest_code, errors, rests, lanes)
                moves = zero != before
                for i in range(size):
                    worst = max(worst, error_bits[i])
            zeros[turn + 1, group] = zero
            for i in range(0, size, 32):
                for lane in range(32):
                    sums[0, turn, lane] += errors[i + lane]
        _add_up(sums, (group + 1) * size // 32, power)
    for turn in range(turns):
        for level in range(1, 4):
            for lane in range(32):
                sums[0, turn, lane] += sums[level, turn, lane]
        totals[turn] = _sum_of_lanes(sums[0, turn])
    return worst


def _scale_and_zero(words: NDArray[np.uint32], largest_code: np.float32) -> tuple[np.float32, np.float32]:
    """What a group begins with; a scale of 0 where not all of its weights are finite."""
    low, high = np.int32(0x7FFFFFFF), np.int32(-0x7FFFFFFF)
    for i in range(len(words)):
        word = np.int32(words[i])
        order = word ^ ((word >> np.int32(31)) & np.int32(0x7FFFFFFF))  # in which integers lie as the numbers do
        low, high = min(low, order), max(high, order)
    ends = np.empty(2, np.int32)
    ends[0] = low ^ ((low >> np.int32(31)) & np.int32(0x7FFFFFFF))
    ends[1] = high ^ ((high >> np.int32(31)) & np.int32(0x7FFFFFFF))
    least, most = ends.view(np.float32)
    width = most - least
    if not width < np.float32(np.inf):
        return np.float32(0), np.float32(0)
    scale = np.float32(1) if width <= np.float32(1e-4) else min(np.float32(1) / width * largest_code, np.float32(2e4))
    return scale, -least * scale


def _next_zero(
    weights: Floats, scale: np.float32, zero: np.float32, largest_code: np.float32, errors: Floats, rests: Floats, lanes: Floats
) -> np.float32:
    """The zero point that suits the codes which `zero` gives; in `errors` how far these are from the weights."""
    for i in range(len(weights)):
        scaled = weights[i] * scale
        code = min(max(np.rint(scaled + zero), np.float32(0)), largest_code)
        errors[i] = abs(weights[i] - (code - zero) / scale)
        rests[i] = code - scaled
    for lane in range(32):
        lanes[lane] = np.float32(0)
    for i in range(0, len(weights), 32):
        for lane in range(32):
            lanes[lane] += rests[i + lane]
    return _sum_of_lanes(lanes) / np.float32(len(weights))


def _add_up(sums: NDArray[np.float32], steps: int, power: int) -> None:
    """As torch adds up a long row, 32 numbers a step: in four levels, each of which goes into the next one every `2 ** power` steps."""
    full = (1 << power) - 1
    if steps & full:
        return
    for level in range(1, 4):
        for turn in range(sums.shape[1]):
            for lane in range(32):
                sums[level, turn, lane] += sums[level - 1, turn, lane]
                sums[level - 1, turn, lane] = np.float32(0)
        if steps & (full << (level * power)):
            return


def _sum_of_lanes(lanes: Floats) -> np.float32:
    """The sum of the 32 in which torch adds up a row."""
    total = np.float32(0)
    for lane in range(8):
        total += lanes[lane] + lanes[lane + 8] + lanes[lane + 16] + lanes[lane + 24]
    return total


def hqq_codes(source: Bits, shift: np.uint32, largest_code: np.float32, scales: Floats, zeros: Floats, codes: NDArray[np.uint8]) -> None:
    """A byte for each weight."""
    size = len(source) // len(scales)
    words = np.empty(size, np.uint32)
    weights = words.view(np.float32)
    for group in range(len(scales)):
        stored = source[group * size : (group + 1) * size]
        for i in range(size):
            words[i] = np.uint32(stored[i]) << shift
        into = codes[group * size : (group + 1) * size]
        scale, zero = scales[group], zeros[group]
        for i in range(size):
            into[i] = np.int32(min(max(np.rint(weights[i] * scale + zero), np.float32(0)), largest_code))


SIGNATURES = {
    "four_bit": "void({bits}[::1], uint32, UniTuple(float32, 15), UniTuple(int32, 15), int32, uint8[::1], float32[::1])",
    "int8": "void({bits}[::1], uint32, int8[::1], float32[::1])",
    "hqq_search": "uint32({bits}[::1], uint32, float32, boolean, int64, float32[::1], float32[:, :], float32[::1])",
    "hqq_codes": "void({bits}[::1], uint32, float32, float32[::1], float32[::1], uint8[::1])",
}
INNER = (_round_to_float16, _scale_and_zero, _next_zero, _add_up, _sum_of_lanes)  # what the loops call
