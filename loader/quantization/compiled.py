"""The loops of kernels.py as machine code, where numba is installed (the `quantize` extra brings it)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

# Importing numba and its cached code takes half a second, in which torch quantizes some 60 million weights.
WORTH_COMPILING = 100_000_000


def is_worth_compiling(count: int) -> bool:
    """Whether `count` weights in all are so many that compiled code pays for its start."""
    return count >= WORTH_COMPILING and find_spec("numba") is not None


@cache
def compiled(name: str) -> Callable[..., None] | None:
    """The loop `name` as machine code that runs without the interpreter's lock; None without numba. Compiled once a machine."""
    if find_spec("numba") is None:
        return None
    import numba

    from . import kernels

    options = {"nogil": True, "error_model": "numpy"}
    loop, signature = getattr(kernels, name), kernels.SIGNATURES[name]
    try:
        return numba.njit(signature, cache=True, **options)(loop)
    except (RuntimeError, OSError):  # no folder for the cache that can be written, or a full disk
        return numba.njit(signature, **options)(loop)
