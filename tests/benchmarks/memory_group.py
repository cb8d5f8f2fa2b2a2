"""A control group with a hard limit of memory, page cache included, in which a command runs. Needs Linux and root."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Of each version of control groups: where memory groups lie, and the file that holds the limit.
_VERSIONS = (
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
    (Path("/sys/fs/cgroup"), "memory.max"),
)


@contextmanager
def memory_limit(nbytes: int) -> Iterator[list[str]]:
    """What stands before a command that may have no more than so much. Raises OSError where no such group can be made."""
    root, limit = next((version for version in _VERSIONS if (version[0] / "cgroup.procs").exists()), _VERSIONS[0])
    group = root / f"mlload-benchmark-{os.getpid()}"
    group.mkdir()
    try:
        (group / limit).write_text(str(nbytes))
        yield ["sh", "-c", f'echo $$ > {group / "cgroup.procs"} && exec "$@"', "sh"]
    finally:
        group.rmdir()
