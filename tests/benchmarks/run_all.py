"""Every benchmark, written to docs/: figures with the machine they were measured on and the command to repeat each."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import architectures
import conformance_table
import inspect_local
import inspect_remote
import load_models
import quantize_kernels

DOCS = Path(__file__).parent.parent.parent / "docs"
PACKAGES = ("torch", "transformers", "huggingface_hub", "accelerate", "hf-mem", "typer", "rich", "bitsandbytes", "hqq", "numba")


def write(name: str, lines: Iterable[str]) -> None:
    """Write a page at once, so that a benchmark that fails leaves the old one."""
    text = "\n".join(lines) + "\n"
    (DOCS / name).write_text(text, encoding="utf-8")
    sys.stdout.write(text)


def machine() -> str:
    """What the figures depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"Measured on {len(models)} cores ({models[0] if models else platform.machine()}), Python {platform.python_version()}, {packages}."
    )


def benchmarks() -> Iterable[str]:
    yield "# Benchmarks"
    yield ""
    yield "Written by `make bench`. Whole processes, timed from outside, in turn (A B A B) after a warm-up; medians; peaks by the kernel."
    yield machine()
    yield ""
    yield "## `mlload inspect`, local: `python tests/benchmarks/inspect_local.py`"
    yield ""
    yield from inspect_local.measure()
    for delay in (0, 50):
        yield ""
        yield f"## `mlload inspect`, a hub at {delay} ms: `python tests/benchmarks/inspect_remote.py`"
        yield ""
        yield from inspect_remote.measure(delay)
    yield ""
    yield "## Loading whole models: `python tests/benchmarks/load_models.py`"
    yield ""
    yield from load_models.measure()
    yield ""
    yield "## Quantizing on a CPU: `python tests/benchmarks/quantize_kernels.py`"
    yield ""
    yield from quantize_kernels.measure()


def main() -> None:
    """Write the pages."""
    title = ["# What headers tell of every model type", "", "Written by `make bench` (`python tests/benchmarks/architectures.py`).", ""]
    write("architectures.md", [*title, *architectures.measure()])
    title = ["# Every model type, loaded", "", "Written by `make bench` (`python tests/benchmarks/conformance_table.py`).", ""]
    write("loading.md", [*title, *conformance_table.measure()])
    write("benchmarks.md", benchmarks())


if __name__ == "__main__":
    main()
