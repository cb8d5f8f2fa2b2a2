"""What this machine has to give, as the kernel tells it: no torch, so that it can be asked before anything heavy is imported."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
# Of each version of control groups: where memory groups lie, the files that hold the limit and the use, and what of the use can be dropped.
_MEMORY_GROUPS = (
    (_CGROUPS, "memory.max", "memory.current", "inactive_file"),
    (_CGROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


_NODES = Path("/sys/devices/system/node")


@dataclass(frozen=True, slots=True)
class GroupLimit:
    """What a control group may have of memory, and what of that is left; `group` is its folder."""

    group: str
    nbytes: int
    left: int


@dataclass(frozen=True, slots=True)
class MemoryNode:
    """Memory that is near to some of the cores."""

    number: int
    total_bytes: int
    free_bytes: int


def free_bytes() -> int:
    """Memory that this process can have without swapping: what the machine has free, or less where a container's limit leaves less."""
    return max(0, min([_free_on_the_machine(), *(limit.left for limit in group_limits())]))


def memory_nodes() -> tuple[MemoryNode, ...]:
    """The machine's NUMA nodes; none where the kernel tells of none."""
    nodes: list[MemoryNode] = []
    for folder in sorted(_NODES.glob("node[0-9]*"), key=lambda folder: int(folder.name[4:])):
        try:
            lines = (line.split() for line in (folder / "meminfo").read_text().splitlines())
            sizes = {words[2].rstrip(":"): int(words[3]) * 1024 for words in lines if len(words) >= 5}
            nodes.append(MemoryNode(int(folder.name[4:]), sizes["MemTotal"], sizes["MemFree"]))
        except (OSError, ValueError, KeyError):  # offline, or of another form
            continue
    return tuple(nodes)


def _free_on_the_machine() -> int:
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def group_limits() -> Iterator[GroupLimit]:
    """Each control group with a limit, from this process's own outwards: every one of them holds."""
    try:
        memberships = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in memberships:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            root, limit, use, droppable = _MEMORY_GROUPS[0 if controllers == "" else 1]
            inside = root / path.lstrip("/")
            for group in (inside, *inside.parents):
                if group.is_relative_to(root) and (found := _limit(group, limit, use, droppable)) is not None:
                    yield found


def _limit(group: Path, limit: str, use: str, droppable: str) -> GroupLimit | None:
    """Pages of files that nobody uses count as free; None where there is no limit, or no such file."""
    try:
        most = int((group / limit).read_text())
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return GroupLimit(str(group), most, most - int((group / use).read_text()) + int(statistics.get(droppable, 0)))
    except (OSError, ValueError):  # "max" is no number
        return None
