import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlload.loader.machine import free_bytes

GROUPS = Path("/sys/fs/cgroup")
ASK = "import sys; sys.stdin.readline(); from mlload.loader.machine import free_bytes; print(free_bytes())"


def test_no_more_than_the_machine_has() -> None:
    assert 0 < free_bytes() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_a_containers_limit_holds() -> None:
    root, limit = (GROUPS / "memory", "memory.limit_in_bytes") if (GROUPS / "memory").is_dir() else (GROUPS, "memory.max")
    group = root / f"mlload-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / limit).write_text(str(300 << 20))
    except OSError as error:
        if group.is_dir():
            group.rmdir()
        pytest.skip(f"no control group of one's own: {error}")
    with subprocess.Popen([sys.executable, "-c", ASK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        (group / "cgroup.procs").write_text(str(process.pid))
        answer = process.communicate("\n")[0]
    group.rmdir()
    assert 250 << 20 < int(answer) <= 300 << 20
