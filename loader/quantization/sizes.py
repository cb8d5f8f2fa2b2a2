"""What a quantized matrix takes, by arithmetic on its sizes alone: nothing here needs torch."""

from __future__ import annotations

HQQ_SEARCH_WORTH_COMPILING = 5_000_000  # weights that torch quantizes in the half second that importing numba takes
_CODEBOOK_BYTES = 4 * 16  # what each of sixteen codes stands for
_NESTED_BLOCK = 256  # scales that share one of their own
_TURNS = 21  # of HQQ's search, each of which leaves zero points
_CODES_IN_A_WORD = 10  # of three bits, in 32


def four_bit_bytes(weights: int, *, blocksize: int = 64, double_quant: bool = False) -> int:
    """nf4 and fp4 of bitsandbytes: two weights a byte, a scale in float32 for each block, and the table of what codes stand for.

    With double quantization a scale takes a byte, with a scale in float32 for 256 of them, their mean and a table of their own.
    """
    blocks = -(-weights // blocksize)
    scales = blocks + 4 * -(-blocks // _NESTED_BLOCK) + 4 + 4 * 256 if double_quant else 4 * blocks
    return -(-weights // 2) + scales + _CODEBOOK_BYTES


def int8_bytes(outputs: int, inputs: int) -> int:
    """int8 of bitsandbytes: a byte a weight, and a scale in float32 for each output."""
    return outputs * inputs + 4 * outputs


def is_in_hqq_groups(weights: int, *, bits: int, group_size: int, axis: int = 1) -> bool:
    """Whether so many weights fall into whole groups of HQQ's, and their codes into whole bytes."""
    groups, rest = divmod(weights, group_size)
    return rest == 0 and (bits == 3 or (groups if axis == 1 else group_size) % (8 // bits) == 0)  # three bits: the library pads


def hqq_bytes(weights: int, *, bits: int, group_size: int, width: int) -> int:
    """HQQ in groups of inputs: codes, and for each group a scale and a zero point of `width` bytes."""
    groups = weights // group_size
    codes = 4 * -(-groups // _CODES_IN_A_WORD) * group_size if bits == 3 else weights * bits // 8
    return codes + 2 * groups * width


def hqq_quantizing_bytes(weights: int, *, bits: int, group_size: int, is_compiled: bool) -> int:
    """What HQQ's search takes beside a matrix and what is left of it.

    Compiled: a byte for each code, and of each group the zero points after every turn of twenty-one. What torch takes instead, and
    what packing takes where codes have three bits, was measured.
    """
    searching = weights + _TURNS * 4 * weights // group_size if is_compiled else 4 * weights
    return max(searching, 6 * weights) if bits == 3 else searching
