"""Killed at random moments and run again, a job leaves the files of one that was not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

KILL = Path(__file__).parent / "kill.py"


def test_killed_at_twenty_moments(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    env = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}  # what forks can't share
    command = [sys.executable, KILL, tiny_model("mbert"), tmp_path / "whole", tmp_path / "killed", "20"]
    killed = int(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)
    assert killed >= 4  # the others found nothing left to do
    files = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert len(files) == 26
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == files
    for name in files:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
