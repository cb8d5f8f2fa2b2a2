"""Every benchmark, written to docs/: figures with the machine they were measured on and the command to repeat each.

`run_all.py load_models.py` measures that one anew and leaves the others as they stand.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
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
import load_on_cuda
import load_quantized
import partial_table
import predictions
import probe
import quantize_kernels
import run_layers
import torch

DOCS = Path(__file__).parent.parent.parent / "docs"
PACKAGES = """
    torch transformers huggingface_hub accelerate safetensors runai-model-streamer fastsafetensors hf-mem typer rich bitsandbytes hqq numba
""".split()

ON_CUDA = "load_on_cuda.py"  # left as it stands where there is no device
# Title, the script that measures it alone, and what yields its lines.
SECTIONS: tuple[tuple[str, str, Callable[[], Iterable[str]]], ...] = (
    ("`mlload inspect`, local", "inspect_local.py", inspect_local.measure),
    ("`mlload inspect`, a hub at 0 ms", "inspect_remote.py", partial(inspect_remote.measure, 0)),
    ("`mlload inspect`, a hub at 50 ms", "inspect_remote.py", partial(inspect_remote.measure, 50)),
    ("Loading whole models", "load_models.py", load_models.measure),
    ("Loading to a CUDA device", ON_CUDA, load_on_cuda.measure),
    ("Quantizing while loading", "load_quantized.py", load_quantized.measure),
    ("Quantizing on a CPU", "quantize_kernels.py", quantize_kernels.measure),
    ("Models larger than memory, a layer at a time", "run_layers.py", run_layers.measure),
    ("Predicted memory", "predictions.py", predictions.measure),
    ("Hidden states of a corpus", "probe.py", probe.measure_all),
    ("What measuring costs", "bench_overhead.py", bench_overhead.measure),
    ("Whether `bench-load --compare` can be trusted", "compare_gate.py", compare_gate.measure),
)
# The script that measures it alone, the title, the page, and what yields its lines.
PAGES: tuple[tuple[str, str, str, Callable[[], Iterable[str]]], ...] = (
    ("architectures.py", "What headers tell of every model type", "architectures.md", architectures.measure),
    ("conformance_table.py", "Every model type, loaded", "loading.md", conformance_table.measure),
    ("partial_table.py", "Every model type, in parts", "partial.md", partial_table.measure),
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


def benchmarks(chosen: Sequence[str]) -> Iterator[str]:
    """The page, with the sections of the `chosen` scripts measured anew and the others as they stand on it."""
    yield "# Benchmarks"
    yield ""
    yield "Written by `make bench`. Whole processes, timed from outside, in turn (A B A B) after a warm-up; medians; peaks by the kernel."
    yield machine()
    standing = sections_on((DOCS / "benchmarks.md").read_text(encoding="utf-8"))
    for title, script, measure in SECTIONS:
        heading = f"## {title}: `python tests/benchmarks/{script}`"
        if script in chosen:
            yield from ("", heading, "", *measure())
        elif heading in standing:
            yield from ("", heading, *standing[heading])


def sections_on(page: str) -> dict[str, list[str]]:
    """The lines below each heading of a page."""
    parts = [part.rstrip().split("\n") for part in f"\n{page}".split("\n## ")[1:]]
    return {f"## {heading}": lines for heading, *lines in parts}


def main(chosen: Sequence[str]) -> None:
    """Write the pages: all of them, or only what the `chosen` scripts measure."""
    for script, title, page, measure in PAGES:
        if script in chosen:
            write(page, [f"# {title}", "", f"Written by `make bench` (`python tests/benchmarks/{script}`).", "", *measure()])
    if any(script in chosen for _, script, _ in SECTIONS):
        write("benchmarks.md", benchmarks(chosen))


if __name__ == "__main__":
    scripts = [script for script, *_ in PAGES] + [script for _, script, _ in SECTIONS]
    main(sys.argv[1:] or [script for script in scripts if script != ON_CUDA or torch.cuda.is_available()])
