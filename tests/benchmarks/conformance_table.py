"""Every model type of transformers loaded by mlload and by from_pretrained: where names, bits, ties, buffers or logits differ."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from zoo_cases import zoo_cases

TESTS = Path(__file__).parent.parent
sys.path.insert(0, str(TESTS))

from conformance import differences  # noqa: E402 - found beside the tests

from mlload import MlloadError  # noqa: E402

DTYPES = (torch.float32, torch.bfloat16)


def measure() -> Iterator[str]:
    """The counts, and a row for each type."""
    with zoo_cases() as cases:
        rows = {case.name: [_compared(case, dtype) for dtype in DTYPES] for case in cases}
    for place, dtype in enumerate(DTYPES):
        equal = sum(row[place] == "equal" for row in rows.values())
        yield f"Loaded in {str(dtype).removeprefix('torch.')}: {equal} of {len(rows)} equal."
        yield ""
    yield "Compared: the state dict (names, dtypes, bits), ties, buffers, config, missing and unexpected names, and the logits."
    yield ""
    yield "| task and type | float32 | bfloat16 |"
    yield "|---|---|---|"
    yield from (f"| {name} | {' | '.join(row)} |" for name, row in rows.items())


def _compared(case: Path, dtype: torch.dtype) -> str:
    try:
        return "; ".join(differences(case, dtype)[:3]) or "equal"
    except MlloadError as error:
        return str(error)


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in measure())
