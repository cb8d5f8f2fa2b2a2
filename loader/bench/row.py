"""One row of the table: a case, its runs, and what they come to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from statistics import median

from ..memory import Memory
from .case import Case
from .run import Run
from .spread import Ratio, Spread

PHASES = ("start", "import", "plan", "read", "convert", "quantize", "cache", "place", "first_forward")


@dataclass(frozen=True)
class Row:
    """A case and its runs, in the order of rounds; or the `problem` for which it has none.

    `ratio` is of its seconds to those of the first row that has figures, round by round, less what either waited for a core.
    `exit_code` says what kind of problem: 1 that the process died, else as the command line ends with.
    """

    case: Case
    runs: tuple[Run, ...]
    weight_bytes: int
    limit: float | None = None  # bytes a second that this machine can do
    ratio: Ratio | None = None
    problem: str | None = None
    exit_code: int = 0

    @cached_property
    def seconds(self) -> Spread:
        """From the process's start to the first answer."""
        return Spread.of([run.seconds for run in self.runs])

    @cached_property
    def load_seconds(self) -> Spread:
        """The same without the interpreter's start and imports."""
        return Spread.of([run.load_seconds for run in self.runs])

    @property
    def waited_share(self) -> float:
        """How much of the time other processes had the core that it wanted."""
        return median(run.waited / run.seconds for run in self.runs)

    @property
    def phases(self) -> dict[str, float]:
        """Median seconds of each phase."""
        known = [name for name in PHASES if any(name in run.phases for run in self.runs)]
        return {name: median(run.phases.get(name, 0.0) for run in self.runs) for name in known}

    @property
    def peak(self) -> Memory:
        """The highest of each kind in the median run, over what the imports had taken."""
        return Memory(
            round(median(run.peak.anonymous - run.imports.anonymous for run in self.runs)),
            round(median(run.peak.mapped - run.imports.mapped for run in self.runs)),
            round(median(run.peak.device for run in self.runs)),
        )

    @property
    def imports(self) -> Memory:
        """What the process held before it read weights."""
        return Memory(round(median(run.imports.anonymous for run in self.runs)), round(median(run.imports.mapped for run in self.runs)))

    @property
    def resident(self) -> int:
        """The most that was resident at once, of whatever kind, imports and all."""
        return round(median(run.resident for run in self.runs))

    @property
    def predicted(self) -> Memory | None:
        """The plan's peak, where there is a plan."""
        told = self.runs[0].facts.get("predicted")
        return Memory(**told) if isinstance(told, dict) else None

    @property
    def read_bytes(self) -> int:
        """Bytes that came from storage."""
        return round(median(run.read_bytes for run in self.runs))

    @property
    def bytes_per_second(self) -> float:
        """The checkpoint's bytes of weights, over the seconds of loading."""
        return self.weight_bytes / self.load_seconds.median

    @property
    def share_of_limit(self) -> float | None:
        """How near that is to what the machine can do: read these files where the page cache is cold, copy memory where it is warm."""
        return None if self.limit is None else self.bytes_per_second / self.limit

    def fact(self, name: str) -> float | None:
        """The median of a number that the engine told; None where it told none."""
        told = [value for run in self.runs if isinstance(value := run.facts.get(name), int | float)]
        return median(told) if told else None

    @property
    def typical(self) -> Run:
        """The run in the middle."""
        return sorted(self.runs, key=lambda run: run.seconds)[(len(self.runs) - 1) // 2]

    def to_json(self) -> dict[str, object]:
        """Plain values; null for what there is not."""
        whole: dict[str, object] = {"label": self.case.label, **asdict(self.case), "problem": self.problem, "exit_code": self.exit_code}
        measured = _MEASURED if self.runs else {}
        return whole | {name: measured[name](self) if name in measured else None for name in _MEASURED}


_MEASURED = {
    "seconds": lambda row: _rounded(asdict(row.seconds)),
    "load_seconds": lambda row: _rounded(asdict(row.load_seconds)),
    "ratio": lambda row: row.ratio and _rounded(asdict(row.ratio)),
    "waited_share": lambda row: round(row.waited_share, 4),
    "phases": lambda row: _rounded(row.phases),
    "imports": lambda row: asdict(row.imports),
    "peak": lambda row: asdict(row.peak),
    "predicted": lambda row: row.predicted and asdict(row.predicted),
    "resident_bytes": lambda row: row.resident,
    "read_bytes": lambda row: row.read_bytes,
    "bytes_per_second": lambda row: round(row.bytes_per_second),
    "share_of_limit": lambda row: row.share_of_limit and round(row.share_of_limit, 4),
    "first_token_seconds": lambda row: row.fact("first_token_seconds"),
    "tokens_per_second": lambda row: row.fact("tokens_per_second"),
    "runs": lambda row: [_run_json(run) for run in row.runs],
    "timeline": lambda row: row.typical.timeline,
}


def _run_json(run: Run) -> dict[str, object]:
    return {
        "seconds": round(run.seconds, 6),
        "load_seconds": round(run.load_seconds, 6),
        "own_seconds": round(run.own_seconds, 6),
        "own_load_seconds": round(run.own_load_seconds, 6),
        "processor_seconds": run.processor_seconds,
        "phases": _rounded(run.phases),
        "imports": asdict(run.imports),
        "peak": asdict(run.peak),
        "resident_bytes": run.resident,
        "read_bytes": run.read_bytes,
        "facts": dict(run.facts),
    }


def _rounded(values: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: value if value is None else round(value, 6) for name, value in values.items()}
