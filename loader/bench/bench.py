"""`bench_load`: the whole measurement as one call."""

from __future__ import annotations

import os
from pathlib import Path

from ..checkpoint import Checkpoint
from ..errors import InvalidCheckpointError, UsageError
from ..settings import CacheMode, choice
from ..sources.download import local_folder
from .case import Case
from .comparison import Baseline
from .grid import BenchGrid
from .job import Job
from .report import BenchReport
from .session import Progress, Session, Subject

_DEFAULT = BenchGrid()


def bench_load(
    model: str | os.PathLike[str],
    grid: BenchGrid = _DEFAULT,
    *,
    runs: int = 5,
    warm_up: int = 1,
    resident: int | None = None,
    cache: str = "off",
    prompt: str | None = None,
    max_new_tokens: int = 16,
    calibrated: bool = False,
    baseline: str | os.PathLike[str] | None = None,
    max_regression: float = 0.1,
    reference: str | None = None,
    progress: Progress | None = None,
) -> BenchReport:
    """Load a model again and again, each time in a fresh process that is watched from outside; every engine in every way asked for.

    What an engine can't do, or lacks a package for, is a row with its `problem`. Every round runs each row once; `warm_up` rounds count
    for nothing. `resident`: bytes of weights that streaming keeps. `cache`: whether quantized weights are kept (off, on, only). `prompt`:
    go on from it, and tell tokens a second. `calibrated`: do fixed work in each round, so that another session can be held against this
    one. `baseline`: such a one, read from a file; its rows may take `max_regression` more than then. `reference`: what the report calls
    the model. The report's `check` raises what the command ends with.

    Raises UsageError for unknown names, NotFoundError or InvalidCheckpointError for `model` and `baseline`, MlloadError where the page
    cache can't be brought into the state that is asked for, DoesNotFitError on a system without /proc.
    """
    cases = grid.cases()
    if choice(CacheMode, cache) is not CacheMode.OFF and "cold" in grid.page_caches:
        raise UsageError("a cold page cache can't be had of quantized weights that are kept", hint="leave --cache off")
    earlier = None if baseline is None else Baseline.read(Path(baseline))
    subject = _subject(model, reference)
    if earlier is not None:
        earlier.check(subject.weight_bytes, [case.label for case in cases])
    job = Job(Case(""), str(subject.folder), subject.files, resident, cache, prompt, max_new_tokens)
    session = Session(subject, cases, job, runs, warm_up, calibrated or earlier is not None, progress)
    return session.measure(earlier, max_regression)


def _subject(model: str | os.PathLike[str], reference: str | None) -> Subject:
    checkpoint = Checkpoint.open(model)
    if checkpoint.config is None:
        raise InvalidCheckpointError("is missing: without it the model can't be built", file="config.json")
    folder = local_folder(checkpoint)
    weight_bytes = sum(entry.nbytes for entry in checkpoint.tensors.values())
    return Subject(reference or os.fspath(model), folder, checkpoint.shards, weight_bytes, len(checkpoint.tensors))
