"""A session held against an earlier one: what has become slower or larger than it may.

Seconds are compared as multiples of the calibration's in the same round, each less what it waited for a core: on a slower or busier
machine both grow alike. Bytes are compared as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from statistics import median
from typing import cast

from ..errors import InvalidCheckpointError, NotFoundError, UsageError
from ..sources.local import read_small
from ..strict_json import parse_object
from .row import Row
from .spread import bootstrap

SCHEMA = "mlload.bench/1"

_MOST_BYTES = 100_000_000
_SHORTEST_LOAD = 0.5  # seconds; less is the machine's mood
_SMALLEST_PEAK = 64 << 20  # bytes; the interpreter's own memory moves by some
_SURE = 0.95

Samples = Mapping[str, Sequence[float]]  # of a row, by measure


@dataclass(frozen=True, slots=True)
class Verdict:
    """One measure of one row: the earlier and the present value (multiples of the calibration, or bytes), and their `ratio`.

    `is_sure`: the runs leave no doubt on which side of the limit it lies.
    """

    label: str
    measure: str
    before: float
    now: float
    ratio: float
    fell: bool
    is_sure: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """All verdicts, and rows of the earlier session that have no figures now: these count as fallen, too."""

    baseline: str
    max_regression: float
    verdicts: tuple[Verdict, ...]
    missing: tuple[str, ...]

    @property
    def fallen(self) -> tuple[str, ...]:
        """What is worse than it may be, a line each."""
        lines = [f"{each.label}: {each.measure} {each.ratio - 1:+.0%}" for each in self.verdicts if each.fell]
        return (*lines, *(f"{label}: no figures" for label in self.missing))

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        verdicts = [{**asdict(each), "ratio": round(each.ratio, 4)} for each in self.verdicts]
        return {"baseline": self.baseline, "max_regression": self.max_regression, "verdicts": verdicts, "missing": list(self.missing)}


@dataclass(frozen=True)
class Baseline:
    """An earlier session, as far as it is compared."""

    name: str
    weight_bytes: int
    rows: Mapping[str, Samples]

    @classmethod
    def read(cls, path: Path) -> Baseline:
        """From a file that `--save` wrote. Raises NotFoundError or InvalidCheckpointError, which name it."""
        if not path.exists():
            raise NotFoundError(f"no such file: {path}", hint="`mlload bench-load --save` writes one")
        content = parse_object(read_small(path, str(path), limit=_MOST_BYTES), file=str(path))
        if content.get("schema") != SCHEMA:
            raise InvalidCheckpointError("is no baseline", file=str(path), hint="`mlload bench-load --save` writes one")
        try:
            rows = {
                str(row["label"]): _samples_of_json(row, content["calibration"]) for row in cast("list", content["rows"]) if row["runs"]
            }
            return cls(str(path), int(cast("int", content["weight_bytes"])), rows)
        except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
            raise InvalidCheckpointError(
                f"is a broken baseline ({type(error).__name__}: {error})", file=str(path), hint="write it again with --save"
            ) from None

    def check(self, weight_bytes: int, labels: Sequence[str]) -> None:
        """Raises UsageError where it is of another checkpoint, or of other rows alone."""
        if weight_bytes != self.weight_bytes:
            raise UsageError(f"{self.name} is of another checkpoint: {self.weight_bytes:,} bytes of weights, not {weight_bytes:,}")
        if not set(labels) & set(self.rows):
            raise UsageError(f"{self.name} has none of these rows: {', '.join(labels)}", hint=f"it has {', '.join(self.rows)}")


def compare(rows: Sequence[Row], calibration: Sequence[float], baseline: Baseline, max_regression: float) -> Comparison:
    """What has become of the baseline's rows that were measured again."""
    asked = [row for row in rows if row.case.label in baseline.rows]
    verdicts = (
        verdict
        for row in asked
        if row.runs
        for verdict in _verdicts(row.case.label, baseline.rows[row.case.label], _samples(row, calibration), 1 + max_regression)
    )
    return Comparison(baseline.name, max_regression, tuple(verdicts), tuple(row.case.label for row in asked if not row.runs))


def _verdicts(label: str, before: Samples, now: Samples, limit: float) -> Iterator[Verdict]:
    for measure in ("seconds", "load_seconds", "anonymous_bytes", "device_bytes"):
        if measure not in before or measure not in now:
            continue
        old, new = median(before[measure]), median(now[measure])
        if not old and not new:  # no device
            continue
        if measure.endswith("_bytes"):
            worse = new > old * limit and new - old > _SMALLEST_PEAK
            yield Verdict(label, measure, old, new, new / old if old else 1.0, worse, is_sure=True)
            continue
        drawn = bootstrap(_quotient(before[measure], now[measure]))
        above = sum(value > limit for value in drawn) / len(drawn)
        yield Verdict(label, measure, old, new, new / old, new / old > limit, is_sure=max(above, 1 - above) >= _SURE)


def _quotient(before: Sequence[float], now: Sequence[float]) -> Callable[[Callable[[Sequence[float]], list[float]]], float]:
    return lambda draw: median(draw(now)) / median(draw(before))


def _samples(row: Row, calibration: Sequence[float]) -> Samples:
    samples = _made(
        [run.own_seconds for run in row.runs],
        [run.own_load_seconds for run in row.runs],
        [run.peak.anonymous - run.imports.anonymous for run in row.runs],
        [run.peak.device for run in row.runs],
        calibration,
    )
    if median(run.own_load_seconds for run in row.runs) < _SHORTEST_LOAD:
        del samples["load_seconds"]
    return samples


def _samples_of_json(row: dict, calibration: object) -> Samples:
    runs = row["runs"]
    return _made(
        [float(run["own_seconds"]) for run in runs],
        [float(run["own_load_seconds"]) for run in runs],
        [int(run["peak"]["anonymous"]) - int(run["imports"]["anonymous"]) for run in runs],
        [int(run["peak"]["device"]) for run in runs],
        [float(value) for value in cast("list", calibration)],
    )


def _made(
    seconds: Sequence[float], load_seconds: Sequence[float], anonymous: Sequence[int], device: Sequence[int], calibration: Sequence[float]
) -> dict[str, Sequence[float]]:
    def in_calibrations(values: Sequence[float]) -> list[float]:
        if not all(0 < value < inf for value in (*values, *calibration)):
            raise ValueError("seconds that are none")
        return [value / each for value, each in zip(values, calibration, strict=True)]

    return {
        "seconds": in_calibrations(seconds),
        "load_seconds": in_calibrations(load_seconds),
        "anonymous_bytes": anonymous,
        "device_bytes": device,
    }
