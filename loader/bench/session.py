"""A session of measuring: every case once a round, round after round, so that a drifting machine meets all of them alike."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

from ..errors import DoesNotFitError, MlloadError
from .case import Case
from .comparison import Baseline, Comparison, compare
from .engines import CALIBRATION
from .grid import refusal
from .job import Job
from .limits import Limits, measure_limits
from .machine import describe_machine
from .page_cache import prepare
from .report import BenchReport
from .row import Row
from .run import Run, RunFailedError, run
from .spread import Ratio

Progress = Callable[[str, int, int], None]  # what runs now, how many runs are done, of how many

_MOST_ROUNDS = 3  # times as many as asked, where a comparison is in doubt
_BUSY = 0.05  # share of the time that cores were waited for
_WIDE = 0.25  # spread of a row's own seconds


@dataclass(frozen=True)
class Subject:
    """The checkpoint that is loaded: its name, where it lies, and what it holds."""

    reference: str
    folder: Path
    files: tuple[str, ...]
    weight_bytes: int
    tensors: int

    @property
    def paths(self) -> list[Path]:
        """Its weight files."""
        return [self.folder / name for name in self.files]


@dataclass
class Session:
    """What is asked, and what has been measured so far. `job` is that of every case but for the case itself."""

    subject: Subject
    cases: Sequence[Case]
    job: Job
    runs: int
    warm_up: int
    calibrated: bool
    progress: Progress | None = None
    measured: dict[Case, list[Run]] = field(default_factory=dict)
    problems: dict[Case, MlloadError] = field(default_factory=dict)
    calibration: list[float] = field(default_factory=list)
    limits: Limits = field(init=False)
    _done: int = field(default=0, init=False)

    def measure(self, baseline: Baseline | None, max_regression: float) -> BenchReport:
        """All rounds, and more of them while it is in doubt whether `baseline` is kept to."""
        _require_proc()
        for case in self.cases:
            if (problem := refusal(case)) is not None:
                self.problems[case] = problem
        self.limits = measure_limits(self.subject.paths, cold=any(case.page_cache == "cold" for case in self._left))
        for number in range(self.warm_up + self.runs):
            self._round(keep=number >= self.warm_up)
        comparison = self._comparison(baseline, max_regression)
        while comparison is not None and not self._is_settled(comparison):
            self._round(keep=True)
            comparison = self._comparison(baseline, max_regression)
        return self._report(comparison)

    @property
    def _left(self) -> list[Case]:
        return [case for case in self.cases if case not in self.problems]

    def _round(self, *, keep: bool) -> None:
        if self.calibrated and self._left:
            done = self._run(Case(CALIBRATION.name, page_cache=self._left[0].page_cache))
            if keep:
                self.calibration.append(done.own_seconds)
        for case in self._left:
            try:
                done = self._run(case)
            except RunFailedError as error:
                self.problems[case] = error
                self.measured.pop(case, None)
                continue
            if keep:
                self.measured.setdefault(case, []).append(done)

    def _run(self, case: Case) -> Run:
        prepare(self.subject.paths, case.page_cache)
        if self.progress is not None:
            rounds = max(self.warm_up + self.runs, self.warm_up + len(self.calibration))
            self.progress(case.label, self._done, rounds * (len(self._left) + self.calibrated))
        self._done += 1
        return run(replace(self.job, case=case))

    def _comparison(self, baseline: Baseline | None, max_regression: float) -> Comparison | None:
        return None if baseline is None else compare(self._rows(), self.calibration, baseline, max_regression)

    def _is_settled(self, comparison: Comparison) -> bool:
        return all(verdict.is_sure for verdict in comparison.verdicts) or len(self.calibration) >= _MOST_ROUNDS * self.runs

    def _rows(self) -> tuple[Row, ...]:
        reference = next(iter(self.measured), None)
        return tuple(self._row(case, reference) for case in self.cases)

    def _row(self, case: Case, reference: Case | None) -> Row:
        runs, problem = self.measured.get(case, []), self.problems.get(case)
        limit = self.limits.read if case.page_cache == "cold" else self.limits.copy
        ratio = None
        if runs and reference is not None and case != reference:
            ratio = Ratio.of([(own.own_seconds, other.own_seconds) for own, other in zip(runs, self.measured[reference], strict=True)])
        told = {} if problem is None else {"problem": str(problem), "exit_code": getattr(problem, "code", problem.exit_code)}
        return Row(case, tuple(runs), self.subject.weight_bytes, limit, ratio, **told)

    def _report(self, comparison: Comparison | None) -> BenchReport:
        rows = self._rows()
        return BenchReport(
            reference=self.subject.reference,
            weight_bytes=self.subject.weight_bytes,
            tensors=self.subject.tensors,
            machine=describe_machine(),
            limits=self.limits,
            rows=rows,
            calibration=tuple(self.calibration),
            warnings=tuple(_doubts(rows)),
            comparison=comparison,
        )


def _require_proc() -> None:
    if not os.path.exists("/proc/self/statm"):
        raise DoesNotFitError("processes are watched through /proc, which this system does not have", hint="measure on Linux")


def _doubts(rows: Sequence[Row]) -> list[str]:
    """What speaks against trusting the figures."""
    doubts: list[str] = []
    for row in (row for row in rows if row.runs):
        own = [each.own_seconds for each in row.runs]
        width = (max(own) - min(own)) / min(own)
        if row.waited_share > _BUSY:
            doubts.append(f"{row.case.label}: other processes had the cores for {row.waited_share:.0%} of the time")
        if width > _WIDE:
            doubts.append(f"{row.case.label}: the slowest run took {width:.0%} longer than the fastest")
        if row.ratio is not None and row.ratio.is_unclear:
            doubts.append(f"{row.case.label}: too noisy to tell whether it is slower or faster than the first row")
    return doubts + list(_different_answers(rows))


def _different_answers(rows: Sequence[Row]) -> list[str]:
    """Rows that should compute alike and do not."""
    alike = [row for row in rows if row.runs and "answer" in row.runs[0].facts]
    return [
        f"{one.case.label} and {other.case.label} answer differently"
        for one, other in combinations(alike, 2)
        if (one.case.quantize, one.case.dtype, one.case.device) == (other.case.quantize, other.case.dtype, other.case.device)
        and one.runs[0].facts["answer"] != other.runs[0].facts["answer"]
    ]
