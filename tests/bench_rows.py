"""Measurements made up for tests: rows of runs that never ran."""

from __future__ import annotations

from collections.abc import Sequence

from mlload import BenchReport
from mlload.loader.bench.case import Case
from mlload.loader.bench.comparison import Comparison
from mlload.loader.bench.limits import Limits
from mlload.loader.bench.row import Row
from mlload.loader.bench.run import Run
from mlload.loader.memory import Memory

MIB = 1 << 20


def a_run(seconds: float, *, load: float = 2.0, anonymous: int = 500) -> Run:
    return Run(
        seconds=seconds,
        load_seconds=load,
        waited=0.0,
        load_waited=0.0,
        processor_seconds=seconds,
        phases={"start": 0.1},
        imports=Memory(300 * MIB, 80 * MIB),
        peak=Memory((300 + anonymous) * MIB, 90 * MIB),
        resident=400 * MIB,
        read_bytes=0,
        timeline=((0.1, 1, 1),),
        facts={"answer": 1},
    )


def a_row(seconds: Sequence[float], *, load: float = 2.0, anonymous: int = 500, engine: str = "mlload") -> Row:
    return Row(Case(engine), tuple(a_run(each, load=load * each / 4, anonymous=anonymous) for each in seconds), 1000)


def a_report(*rows: Row, comparison: Comparison | None = None, reference: str = "made-up") -> BenchReport:
    machine = {"cores": 2, "processor": "a processor"}
    return BenchReport(reference, 1000, 3, machine, Limits(2e9, 1e9), rows, (), (), comparison)
