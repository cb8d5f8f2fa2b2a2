"""Threads in each of which torch computes alone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def solo_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool whose threads don't share an operation with others of torch's own.

    Those wait for each other busily: with as many of our threads as cores they only get in each other's way, and on a machine that has
    other work to do a copy takes up to ten times as long.
    """
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)  # OpenMP keeps a number for each thread, but MKL one for all
