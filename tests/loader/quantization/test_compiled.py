"""Compiled loops where numba can't keep them, or is not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

QUANTIZE = """
import torch
from mlload.loader.quantization import four_bit
from mlload.loader.quantization.compiled import compiled
weight = torch.randn(8, 64)
plain, fast = (four_bit.quantize(weight, quant_type="nf4", use_numba=use_numba) for use_numba in (False, True))
assert all(map(torch.equal, plain, fast))
print(compiled("four_bit") is None)
"""


def run(code: str, **env: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], env=dict(os.environ, **env), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_cache_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert run(QUANTIZE, NUMBA_CACHE_DIR=str(tmp_path / "file" / "cache")) == "False"


def test_the_cache_is_kept(tmp_path: Path) -> None:
    run(QUANTIZE, NUMBA_CACHE_DIR=str(tmp_path))
    assert list(tmp_path.rglob("kernels.four_bit-*.nbi"))


@pytest.mark.parametrize("before", ["import sys; sys.modules['numba'] = None"])
def test_without_numba_torch_does_it(before: str) -> None:
    assert run(before + QUANTIZE) == "True"
