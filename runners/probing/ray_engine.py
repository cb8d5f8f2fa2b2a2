"""The same job on Ray Data: a pool of actors, each with the model loaded once, each writing whole shards into the one folder.

A shard is the unit of work: an actor that dies costs the shard that it was at, which Ray gives to another.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from typing import Any

from ...loader.errors import MissingDependencyError, UsageError
from ..base import BaseModelRunner
from .background import BackgroundWriter
from .folder import OutputFolder, ShardLine
from .job import ProbeJob, Progress
from .settings import ProbeSettings
from .texts import Example, TextFile, as_examples
from .windows import Window

Load = Callable[[], BaseModelRunner]


def check_ray(texts: Iterable[str | Example], model: object, output: object) -> None:
    """Raises MissingDependencyError without Ray, UsageError for what several processes can't share."""
    if find_spec("ray") is None:
        raise MissingDependencyError("the ray engine needs Ray", hint='pip install "mlload[ray]"')
    if isinstance(texts, Iterator) or (isinstance(texts, TextFile) and texts.path == "-"):
        raise UsageError("every actor goes over the texts for itself, and these can be read once", hint="give a file, or a list")
    if isinstance(model, BaseModelRunner):
        raise UsageError("every actor loads the model for itself", hint="give its name, not a runner")
    if output is None:
        raise UsageError("actors write their shards to a folder", hint="give it: --output DIR")


def run_on_ray(
    job: ProbeJob, load: Load, texts: Iterable[str | Example], folder: OutputFolder, progress: Progress, *, actors: int
) -> list[ShardLine]:
    """Compute what `folder` does not hold yet; every actor goes over `texts` for itself, and calls `load`.

    The cores of this machine are shared out among the actors, on a cluster of their own unless Ray runs already.
    """
    lines: dict[int, ShardLine] = {}
    open_windows: list[int] = []
    for window in job.windows(as_examples(texts)):
        line = folder.done(window.number, window.digest)
        if line is None:
            open_windows.append(window.number)
        else:
            lines[window.number] = line
            progress.resumed_texts += line.texts
            progress.heard(line.texts)
    if open_windows:
        with _cluster(actors):
            for number, line in _computed(job.settings, load, texts, folder, open_windows, actors=actors):
                lines[number] = line
                progress.heard(line.texts)
    return [lines[number] for number in sorted(lines)]


@contextmanager
def _cluster(actors: int) -> Iterator[None]:
    """Ray: the one that runs, or one on this machine for as long as this lasts, which reports to nobody."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    if ray.is_initialized():
        yield
        return
    # Ray tells on stdout of actors that died, and the answer is not to have that in it.
    with redirect_stdout(sys.stderr), TemporaryDirectory(prefix="mlload-ray-", ignore_cleanup_errors=True) as scratch:
        ray.init(num_cpus=actors, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, _temp_dir=scratch)
        try:
            yield
        finally:
            ray.shutdown()


def _computed(
    settings: ProbeSettings, load: Load, texts: Iterable[str | Example], folder: OutputFolder, numbers: list[int], *, actors: int
) -> Iterator[tuple[int, ShardLine]]:
    import ray.data
    import torch

    threads = max(1, torch.get_num_threads() // actors)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    shards = ray.data.from_items(numbers, override_num_blocks=len(numbers)).map(
        _Actor,  # pyright: ignore[reportArgumentType]  # a class makes actors, which its type leaves out
        compute=ray.data.ActorPoolStrategy(size=min(actors, len(numbers))),
        num_cpus=1,
        fn_constructor_kwargs={"settings": settings, "load": load, "texts": texts, "folder": folder, "threads": threads},
    )
    for row in shards.iter_rows():
        yield int(row["number"]), folder.remembered(int(row["number"]))


class _Actor:
    """One process with the model: takes numbers of windows, leaves shards."""

    def __init__(self, *, settings: ProbeSettings, load: Load, texts: Iterable[str | Example], folder: OutputFolder, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._job = ProbeJob(load(), settings)
        self._texts = texts
        self._folder = folder
        self._windows: Iterator[Window] = iter(())
        self._next = -1  # the number of the window that comes next

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        number = int(row["item"])
        with BackgroundWriter() as writer:
            self._job.run_window(self._window(number), self._folder, writer, Progress())
        return {"number": number}

    def _window(self, number: int) -> Window:
        """That window: the next one that there is, or, after a retry, found from the beginning again."""
        if not 0 <= self._next <= number:
            self._windows = self._job.windows(as_examples(self._texts))
        for window in self._windows:
            self._next = window.number + 1
            if window.number == number:
                return window
        raise LookupError(f"window {number} is not there any more: the texts changed")
