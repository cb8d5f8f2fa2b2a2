"""A session held against an earlier one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
from bench_rows import MIB, a_row

from mlload import InvalidCheckpointError, NotFoundError, UsageError
from mlload.loader.bench.case import Case
from mlload.loader.bench.comparison import Baseline, compare
from mlload.loader.bench.row import Row
from mlload.loader.memory import Memory

CALIBRATION = (1.0, 1.1, 0.9, 1.0, 1.05)


def saved(path: Path, rows: Sequence[Row], calibration: Sequence[float] = CALIBRATION, weight_bytes: int = 1000) -> Path:
    content = {
        "schema": "mlload.bench/1",
        "weight_bytes": weight_bytes,
        "calibration": calibration,
        "rows": [row.to_json() for row in rows],
    }
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def baseline(tmp_path: Path) -> Baseline:
    """Four calibrations a run."""
    return Baseline.read(saved(tmp_path / "baseline.json", [a_row([4.0 * each for each in CALIBRATION])]))


def test_a_slower_machine_is_no_regression(baseline: Baseline) -> None:
    slow = [3 * each for each in CALIBRATION]
    found = compare([a_row([4.0 * each for each in slow])], slow, baseline, 0.1)
    assert found.fallen == ()
    assert all(verdict.ratio == pytest.approx(1) and verdict.is_sure for verdict in found.verdicts)


def test_a_fifth_more_on_a_faster_machine_is_one(baseline: Baseline) -> None:
    fast = [each / 2 for each in CALIBRATION]
    found = compare([a_row([4.8 * each for each in fast])], fast, baseline, 0.1)
    assert found.fallen == ("mlload: seconds +20%", "mlload: load_seconds +20%")
    assert compare([a_row([4.8 * each for each in fast])], fast, baseline, 0.25).fallen == ()


def test_short_loads_are_not_compared_by_themselves(baseline: Baseline) -> None:
    found = compare([a_row([4.0 * each for each in CALIBRATION], load=0.3)], CALIBRATION, baseline, 0.1)
    assert {verdict.measure for verdict in found.verdicts} == {"seconds", "anonymous_bytes"}


def test_memory_is_compared_as_it_is(baseline: Baseline) -> None:
    found = compare([a_row([4.0 * each for each in CALIBRATION], anonymous=700)], CALIBRATION, baseline, 0.1)
    assert found.fallen == ("mlload: anonymous_bytes +40%",)


def test_a_row_without_figures_has_fallen(baseline: Baseline) -> None:
    assert compare([Row(Case("mlload"), (), 1000, problem="gone")], (), baseline, 0.1).fallen == ("mlload: no figures",)


def test_runs_that_differ_wildly_leave_a_doubt(baseline: Baseline) -> None:
    wild = [each * factor for each, factor in zip(CALIBRATION, (3.0, 5.2, 4.5, 4.3, 6.0), strict=True)]
    assert not all(verdict.is_sure for verdict in compare([a_row(wild)], CALIBRATION, baseline, 0.1).verdicts)


def test_another_checkpoint_or_other_rows_are_refused(baseline: Baseline) -> None:
    with pytest.raises(UsageError, match=r"another checkpoint: 1,000 bytes of weights, not 999"):
        baseline.check(999, ["mlload"])
    with pytest.raises(UsageError, match=r"none of these rows: runai; it has mlload"):
        baseline.check(1000, ["runai"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not valid JSON"),
        ("[]", "JSON holds a list"),
        ("{}", "is no baseline; `mlload bench-load --save` writes one"),
        ('{"schema": "mlload.bench/1"}', "is a broken baseline (KeyError: 'rows')"),
        ('{"schema": "mlload.bench/1", "rows": [5], "calibration": []}', "is a broken baseline (TypeError"),
        ('{"schema": "mlload.bench/1", "rows": 5, "calibration": []}', "is a broken baseline (TypeError"),
    ],
)
def test_a_corrupt_baseline_is_named(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(content)
    with pytest.raises(InvalidCheckpointError) as broken:
        Baseline.read(path)
    assert str(path) in str(broken.value)
    assert words in str(broken.value)


def test_a_calibration_that_lacks_rounds_is_no_baseline(tmp_path: Path) -> None:
    with pytest.raises(InvalidCheckpointError, match="broken baseline"):
        Baseline.read(saved(tmp_path / "short.json", [a_row([4.0, 4.0])], calibration=[1.0]))
    for value in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InvalidCheckpointError, match="seconds that are none"):
            Baseline.read(saved(tmp_path / "odd.json", [a_row([4.0])], calibration=[value]))


def test_no_baseline_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no such file: .*nothing\.json"):
        Baseline.read(tmp_path / "nothing.json")


def test_what_is_said_of_a_run_comes_back(tmp_path: Path) -> None:
    told = a_row([4.0]).to_json()
    assert told["peak"] == asdict(Memory(500 * MIB, 10 * MIB, 0))
    assert told["runs"][0]["own_seconds"] == 4.0  # pyright: ignore
