"""Compiled loops where numba can't keep them, or is not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

QUANTIZE = """
import torch
from mlload.loader.quantization import int8
from mlload.loader.quantization.compiled import compiled
weight = torch.randn(8, 64)
plain, fast = (int8.quantize(weight, use_numba=use_numba) for use_numba in (False, True))
assert all(map(torch.equal, plain, fast))
print(compiled("int8", torch.float32) is None)
"""


def run(code: str, **env: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], env=dict(os.environ, **env), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_cache_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert run(QUANTIZE, NUMBA_CACHE_DIR=str(tmp_path / "file" / "cache")) == "False"


def test_what_is_kept_is_compiled_again_where_it_is_damaged(tmp_path: Path) -> None:
    run(QUANTIZE, NUMBA_CACHE_DIR=str(tmp_path))
    (kept,) = tmp_path.rglob("kernels.int8-*.nbc")
    os.truncate(kept, kept.stat().st_size // 2)
    assert run(QUANTIZE, NUMBA_CACHE_DIR=str(tmp_path)) == "False"


def test_without_numba_torch_does_it() -> None:
    assert run("import sys; sys.modules['numba'] = None" + QUANTIZE) == "True"
