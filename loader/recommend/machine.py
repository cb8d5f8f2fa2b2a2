"""The machine to load on: what is here, asked without torch, or one that is described."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from ..errors import UsageError
from ..execution.backends import Device, Hardware
from ..machine import GroupLimit, MemoryNode, free_bytes, group_limits, memory_nodes
from ..nvml import cuda_devices
from ..settings import Backend, parse_bytes
from ..text import printable

_MANY = re.compile(r"(?:(?P<count>\d{1,3})\s*x\s*)?(?P<size>.+)", re.IGNORECASE)
_MOST_DEVICES = 64
_UNBOUNDED = 1 << 62  # above any limit that a kernel writes where it means none
# Of the memory that Apple's GPU may have: two thirds, from 36 GiB on three quarters (Metal's recommendedMaxWorkingSetSize).
_APPLE_SHARES = ((36 << 30, 3 / 4), (0, 2 / 3))


@dataclass(frozen=True, slots=True)
class Disk:
    """Where weights come from: room that is left, and bytes a second where that was measured."""

    folder: str
    free_bytes: int
    read_rate: float | None = None


@dataclass(frozen=True)
class Machine:
    """What a model can have. `hardware.free_bytes` is of the host, None for one that was not told; `limits` are containers'.

    `is_declared`: somebody said so, and nothing was asked of this machine.
    """

    hardware: Hardware
    limits: tuple[GroupLimit, ...] = ()
    nodes: tuple[MemoryNode, ...] = ()
    disk: Disk | None = None
    is_declared: bool = False
    host_is_known: bool = True

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        hardware = self.hardware
        devices = [(f"cuda:{index}", device) for index, device in enumerate(hardware.cuda)]
        devices += [("mps", hardware.mps)] if hardware.mps else []
        return {
            "declared": self.is_declared,
            "cores": hardware.cores,
            "host_free_bytes": hardware.free_bytes if self.host_is_known else None,
            "devices": [
                {"device": name, "name": each.name, "total_bytes": each.total_bytes, "free_bytes": each.free_bytes}
                for name, each in devices
            ],
            "limits": [{"group": each.group, "bytes": each.nbytes, "left": each.left} for each in self.limits],
            "numa_nodes": [{"node": each.number, "total_bytes": each.total_bytes, "free_bytes": each.free_bytes} for each in self.nodes],
            "disk": None
            if self.disk is None
            else {"folder": self.disk.folder, "free_bytes": self.disk.free_bytes, "read_rate": self.disk.read_rate},
        }


def this_machine(folder: Path | None = None) -> Machine:
    """What is free here now; `folder` is on the disk that weights are read from."""
    hardware = Hardware(
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        free_bytes=free_bytes(),
        cuda=cuda_devices() if torch_computes_on(Backend.CUDA) else (),
        mps=_apple_device() if torch_computes_on(Backend.MPS) else None,
    )
    limits = tuple(limit for limit in group_limits() if limit.nbytes < _UNBOUNDED)
    return Machine(hardware, limits, memory_nodes(), None if folder is None else disk_of(folder))


def declared_machine(
    *, device: str | None = None, memory: str | int | None = None, gpus: str | None = None, host: int | None = None
) -> Machine:
    """The machine that is described: `gpus` as `2x24GiB`, or one `device` with so much `memory`. Raises UsageError for what is none.

    `host` is the memory beside GPUs; without it nothing is known of it, and nothing is asked of it.
    """
    name = (device or ("cuda" if gpus else "cpu")).partition(":")[0]
    if name not in ("cuda", "mps", "cpu"):
        raise UsageError(f"no machine with '{printable(device)}' can be described", hint="cuda, mps or cpu")
    if gpus is not None and (name != "cuda" or memory is not None):
        raise UsageError("--gpus describes CUDA devices with their memory", hint="leave --device and --memory out")
    sizes = _gpu_sizes(gpus) if gpus is not None else [_size(memory)]
    cores = os.cpu_count() or 1
    if name == "cpu":
        return Machine(Hardware(cores, sizes[0]), is_declared=True)
    if name == "mps":
        shared = Device("mps", sizes[0], _apple_share(sizes[0]))
        return Machine(Hardware(cores, sizes[0], mps=shared), is_declared=True)
    devices = tuple(Device(f"{size >> 30} GiB", size, size) for size in sizes)
    return Machine(Hardware(cores, host or 0, cuda=devices), is_declared=True, host_is_known=host is not None)


def only(machine: Machine, backend: Backend) -> Machine:
    """The machine as if there were nothing to compute on but `backend`."""
    hardware = machine.hardware
    kept = replace(hardware, cuda=hardware.cuda if backend is Backend.CUDA else (), mps=hardware.mps if backend is Backend.MPS else None)
    return replace(machine, hardware=kept)


def disk_of(folder: Path) -> Disk:
    """The disk that `folder`, or the nearest folder above it that exists, is on."""
    there = next(each for each in (folder, *folder.parents) if each.exists())
    return Disk(str(folder), shutil.disk_usage(there).free)


@cache
def torch_computes_on(backend: Backend) -> bool:
    """Whether the torch that is installed was built for it: told by a file of its, for importing it takes a second."""
    if backend is Backend.CPU:
        return True
    if backend is not Backend.CUDA:
        return platform.system() == "Darwin" and platform.machine() == "arm64"
    spec = find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return False
    try:
        text = Path(next(iter(spec.submodule_search_locations)), "version.py").read_text(encoding="utf-8")
    except OSError:
        return False
    return re.search(r"^(cuda|hip)\b[^=\n]*= *['\"]", text, re.MULTILINE) is not None


def _gpu_sizes(text: str) -> list[int]:
    """`24GiB`, `2x24GiB`, `2x24GiB,80GiB`."""
    sizes: list[int] = []
    for part in text.split(","):
        found = _MANY.fullmatch(part.strip())
        if found is None:
            raise UsageError(f"'{printable(text, limit=40)}' describes no GPUs", hint="write 2x24GiB, or 24GiB,16GiB")
        sizes += [_size(found["size"])] * int(found["count"] or 1)
    if not 0 < len(sizes) <= _MOST_DEVICES:
        raise UsageError(f"a machine has 1 to {_MOST_DEVICES} GPUs, not {len(sizes)}")
    return sizes


def _size(size: str | int | None) -> int:
    if size is None:
        raise UsageError("how much memory has it?", hint="--memory 24GiB says that")
    return parse_bytes(size) if isinstance(size, str) else size


def _apple_share(total: int) -> int:
    return int(total * next(share for least, share in _APPLE_SHARES if total >= least))


def _apple_device() -> Device | None:
    """Apple's GPU, which has no memory of its own."""
    try:
        done = subprocess.run(["/usr/sbin/sysctl", "-n", "hw.memsize"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    total = int(done.stdout)
    return Device("mps", total, min(_apple_share(total), free_bytes()))
