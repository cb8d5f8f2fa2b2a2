"""Going through a long row of weights in pieces that stay in a core's cache, on several threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

Allocate = Callable[[tuple[int, ...], torch.dtype], Tensor]

# Below 32,768 elements torch keeps an operation on the thread that asks for it. A multiple of every block size of bitsandbytes.
PIECE = 7 * 4096
LONG_PIECE = 16 * PIECE  # for compiled loops, which stay in a core's cache by themselves; what is called for each costs a little


def in_pieces(work: Callable[[int, int], None], count: int, *, piece: int = PIECE, threads: int | None = None) -> None:
    """Call `work(start, end)` for every piece of `range(count)`; each thread (torch's number by default) takes one share."""
    starts = range(0, count, piece)
    threads = max(1, min(threads or torch.get_num_threads(), len(starts)))

    def share(number: int) -> None:
        for start in starts[len(starts) * number // threads : len(starts) * (number + 1) // threads]:
            work(start, min(start + piece, count))

    if threads == 1:
        share(0)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(share, range(threads)))


def fresh(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Memory of torch's own for a tensor."""
    return torch.empty(shape, dtype=dtype)
