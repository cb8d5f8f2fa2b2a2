"""Every benchmark, written to docs/: figures with the machine they were measured on and the command to repeat each."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import architectures
import bench_overhead
import compare_gate
import conformance_table
import inspect_local
import inspect_remote
import load_models
import partial_table
import quantize_kernels

DOCS = Path(__file__).parent.parent.parent / "docs"
PACKAGES = """
    torch transformers huggingface_hub accelerate safetensors runai-model-streamer fastsafetensors hf-mem typer rich bitsandbytes hqq numba
""".split()

# Title, the script that measures it alone, and what yields its lines.
SECTIONS: tuple[tuple[str, str, Callable[[], Iterable[str]]], ...] = (
    ("`mlload inspect`, local", "inspect_local.py", inspect_local.measure),
    ("`mlload inspect`, a hub at 0 ms", "inspect_remote.py", partial(inspect_remote.measure, 0)),
    ("`mlload inspect`, a hub at 50 ms", "inspect_remote.py", partial(inspect_remote.measure, 50)),
    ("Loading whole models", "load_models.py", load_models.measure),
    ("Quantizing on a CPU", "quantize_kernels.py", quantize_kernels.measure),
    ("What measuring costs", "bench_overhead.py", bench_overhead.measure),
    ("Whether `bench-load --compare` can be trusted", "compare_gate.py", compare_gate.measure),
)


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
    for title, script, measure in SECTIONS:
        yield ""
        yield f"## {title}: `python tests/benchmarks/{script}`"
        yield ""
        yield from measure()


def main() -> None:
    """Write the pages."""
    title = ["# What headers tell of every model type", "", "Written by `make bench` (`python tests/benchmarks/architectures.py`).", ""]
    write("architectures.md", [*title, *architectures.measure()])
    title = ["# Every model type, loaded", "", "Written by `make bench` (`python tests/benchmarks/conformance_table.py`).", ""]
    write("loading.md", [*title, *conformance_table.measure()])
    title = ["# Every model type, in parts", "", "Written by `make bench` (`python tests/benchmarks/partial_table.py`).", ""]
    write("partial.md", [*title, *partial_table.measure()])
    write("benchmarks.md", benchmarks())


if __name__ == "__main__":
    main()
