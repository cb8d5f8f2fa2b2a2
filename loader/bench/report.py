"""What was measured, as plain values: `mlload.bench/1`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from ..errors import (
    DoesNotFitError,
    InvalidCheckpointError,
    MissingDependencyError,
    MlloadError,
    NotFoundError,
    ThresholdExceededError,
    UsageError,
)
from .comparison import SCHEMA, Comparison
from .limits import Limits
from .row import Row

_OURS = "mlload"  # that other engines can't load a model is a result
_ERRORS = {error.exit_code: error for error in (UsageError, NotFoundError, DoesNotFitError, MissingDependencyError)}


@dataclass(frozen=True)
class BenchReport:
    """A whole session: what was loaded, on what, the rows, and what to doubt. `calibration`: seconds of the fixed work, round by round."""

    reference: str
    weight_bytes: int
    tensors: int
    machine: Mapping[str, object]
    limits: Limits
    rows: tuple[Row, ...]
    calibration: tuple[float, ...]
    warnings: tuple[str, ...]
    comparison: Comparison | None = None

    def check(self) -> None:
        """Raises ThresholdExceededError for rows that fell behind the baseline, MlloadError where mlload died or nothing ran at all."""
        failed = [row for row in self.rows if row.problem is not None]
        died = [row for row in failed if row.exit_code == MlloadError.exit_code and row.case.engine == _OURS]
        if self.comparison is not None and self.comparison.fallen:
            raise ThresholdExceededError(f"worse than {self.comparison.baseline}: {'; '.join(self.comparison.fallen)}")
        if died or len(failed) == len(self.rows):
            raise _error((died or failed)[0])

    def to_json(self) -> dict[str, object]:
        """One object of plain values."""
        return {
            "schema": SCHEMA,
            "reference": self.reference,
            "weight_bytes": self.weight_bytes,
            "tensors": self.tensors,
            "machine": dict(self.machine),
            "limits": {name: value and round(value) for name, value in asdict(self.limits).items()},
            "rows": [row.to_json() for row in self.rows],
            "calibration": [round(value, 6) for value in self.calibration],
            "warnings": list(self.warnings),
            "comparison": None if self.comparison is None else self.comparison.to_json(),
        }


def _error(row: Row) -> MlloadError:
    """The row's problem as the command ends with it."""
    if row.exit_code == InvalidCheckpointError.exit_code:
        return InvalidCheckpointError(str(row.problem), file=row.case.label)
    return _ERRORS.get(row.exit_code, MlloadError)(f"{row.case.label}: {row.problem}")
