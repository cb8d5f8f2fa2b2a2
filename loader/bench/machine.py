"""What the figures depend on: processor, memory, kernel, versions."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = (
    "mlload",
    "torch",
    "transformers",
    "accelerate",
    "safetensors",
    "runai-model-streamer",
    "fastsafetensors",
    "bitsandbytes",
    "hqq",
    "numba",
)


def describe_machine() -> dict[str, object]:
    """This machine and its packages, as plain values."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _first_value("/proc/cpuinfo", "model name") or platform.machine(),
        "memory_bytes": int((_first_value("/proc/meminfo", "MemTotal") or "0").split()[0]) * 1024,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name)) is not None},
    }


def _first_value(path: str, key: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), None)
    except OSError:
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
