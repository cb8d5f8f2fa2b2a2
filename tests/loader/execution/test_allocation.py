"""What is freed goes back to the kernel."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Blocks below glibc's own limit of 32 MiB, freed in between others that stay.
PROGRAM = """
import torch
from mlload.loader.execution.allocation import give_back_freed_memory
from mlload.loader.memory import process_memory

if {given_back}:
    give_back_freed_memory()
torch.empty(16 << 20, dtype=torch.uint8).fill_(1)  # freed at once, which raises glibc's limit
before = process_memory().anonymous
blocks = [torch.empty(size, dtype=torch.uint8).fill_(1) for _ in range(10) for size in (8 << 20, 1 << 16)]
del blocks[::2]
print(process_memory().anonymous - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
@pytest.mark.parametrize("given_back", [False, True])
def test_freed_memory_goes_back(given_back: bool) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(given_back=given_back)], capture_output=True, text=True, check=True)
    assert (int(done.stdout) < 8 << 20) is given_back
