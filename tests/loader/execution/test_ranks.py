"""Loading for distributed training: really two processes, which talk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_rank_0_loads_and_sends_the_weights_to_the_others() -> None:
    program = Path(__file__).with_name("fsdp_two_ranks.py")
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc-per-node", "2", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert sorted(done.stdout.splitlines()) == ["rank 0: True", "rank 1: True"], done.stderr[-2000:]
