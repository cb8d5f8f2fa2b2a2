"""Every model type of transformers run in parts: where logits or hidden states differ from the whole model's, cut between any layers."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from zoo_cases import zoo_cases

TESTS = Path(__file__).parent.parent
sys.path.insert(0, str(TESTS))

from partial_conformance import cuts, differences  # noqa: E402 - found beside the tests

from mlload import MlloadError  # noqa: E402


def measure() -> Iterator[str]:
    """The counts, and a row for each type."""
    torch.set_num_threads(1)
    with zoo_cases() as cases, tempfile.TemporaryDirectory() as states:
        rows = {case.name: _row(case, Path(states)) for case in cases}
    places = sum(count for count, *_ in rows.values())
    yield f"{places} places between layers (before the first and after the last included) in {len(rows)} model types, of every stack that"
    yield "is gone through: stopped there, written to a file, read again, gone on with to the end."
    yield ""
    for place, what in enumerate(("logits from every place on", "a layer at a time, float32", "a layer at a time, bfloat16"), start=1):
        yield f"- {what}: {sum(row[place].startswith('equal') for row in rows.values())} of {len(rows)} equal"
    yield ""
    yield "Compared bit by bit: the logits of the whole model, loaded at once, and with them what enters each of its layers."
    yield ""
    yield "| task and type | places | from every place | a layer at a time, float32 | bfloat16 |"
    yield "|---|---|---|---|---|"
    yield from (f"| {name} | {' | '.join(map(str, row))} |" for name, row in rows.items())


def _row(case: Path, scratch: Path) -> tuple[int, str, str, str]:
    for old in scratch.iterdir():
        old.unlink()
    try:
        count, wrong = cuts(case, scratch, torch.float32)
    except MlloadError as error:
        count, wrong = 0, [str(error)]
    return count, _told(wrong), _chained(case, torch.float32), _chained(case, torch.bfloat16)


def _chained(case: Path, dtype: torch.dtype) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        try:
            return _told(differences(case, Path(scratch), dtype))
        except MlloadError as error:
            return str(error)
        except RuntimeError:  # of the whole model, which is run first
            if dtype is torch.float32:
                raise
            return "the whole model can't compute in it"


def _told(wrong: list[str]) -> str:
    return "; ".join(wrong[:3]) or "equal"


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in measure())
