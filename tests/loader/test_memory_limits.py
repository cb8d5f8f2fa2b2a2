"""What is promised of memory, measured from outside the process."""

from __future__ import annotations

from pathlib import Path

import pytest
from peak import peak

MIB = 1 << 20
SLACK = 12 * MIB  # what the interpreter, torch's threads and the forward take meanwhile


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_what_exceeds_max_memory_is_left_on_the_files(llama_84mb: Path, dtype: str) -> None:
    seen = peak(llama_84mb, device="cpu", dtype=dtype, max_memory={"cpu": "24MiB"})
    assert seen.told["strategy"] == "streaming"
    assert seen.pages + max(0, seen.anonymous - SLACK) <= 24 * MIB


def test_without_a_limit_there_is_all_of_it(llama_84mb: Path) -> None:
    seen = peak(llama_84mb, device="cpu", dtype="float32", loading_strategy="full")
    assert seen.anonymous > 140 * MIB  # so that the limits above are no accident
