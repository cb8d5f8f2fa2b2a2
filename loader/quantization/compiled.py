"""The loops of kernels.py as machine code, where numba is installed (the `quantize` extra brings it)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .sizes import HQQ_SEARCH_WORTH_COMPILING

if TYPE_CHECKING:
    from .kernels import Bits

# So many weights torch quantizes on two cores in the half second that importing numba and its cached code takes.
WORTH_COMPILING = {"four_bit": 100_000_000, "int8": 300_000_000, "hqq_search": HQQ_SEARCH_WORTH_COMPILING}
_compiling = threading.RLock()


def is_worth_compiling(name: str, count: int) -> bool:
    """Whether `count` weights in all are so many that the loop `name` as machine code pays for its start."""
    return count >= WORTH_COMPILING[name]


def compiled(name: str, dtype: torch.dtype) -> Callable[..., Any] | None:
    """The loop `name` for weights of `dtype` as machine code that runs without the interpreter's lock; None without numba."""
    with _compiling:
        return _compiled(name, "uint16" if dtype == torch.bfloat16 else "uint32")


def as_bits(weights: Tensor) -> tuple[Bits, np.uint32]:
    """Weights in one row as the loops take them, and how far they are shifted; in float32 unless they are bfloat16."""
    if weights.dtype == torch.bfloat16:
        return weights.view(torch.int16).numpy().view(np.uint16), np.uint32(16)
    return weights.float().numpy().view(np.uint32), np.uint32(0)


@cache
def _compiled(name: str, bits: str) -> Callable[..., Any] | None:
    """Compiled once a machine, and kept by numba."""
    if find_spec("numba") is None:
        return None
    import numba

    kernels = _kernels()
    loop, signature = getattr(kernels, name), kernels.SIGNATURES[name].format(bits=bits)
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(signature, cache=True, **options)(loop)
    except (RuntimeError, OSError, EOFError, UnpicklingError):  # no folder that can be written, a full disk, a file that is damaged
        return numba.njit(signature, **options)(loop)


@cache
def _kernels() -> Any:
    """kernels.py, with what its loops call made known to numba."""
    from numba.extending import register_jitable

    from . import kernels

    for function in kernels.INNER:
        register_jitable(function)
    return kernels
