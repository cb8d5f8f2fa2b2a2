"""Quantizing while loading: mlload beside transformers and hqq, each in a process of its own, in turn; memory sampled from outside."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from memory_group import memory_limit

from mlload.loader.bench.limits import measure_limits
from mlload.loader.bench.page_cache import prepare
from mlload.loader.bench.synthetic import synthetic

# What both engines need is imported before the first clock starts; the second runs from the start of the process.
PROGRAM = """
import sys, time
engine, folder, method, cache = sys.argv[1:]
if engine == "without numba":
    sys.modules["numba"] = None
import torch, transformers
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()
config = transformers.AutoConfig.from_pretrained(folder)
model_class = getattr(transformers, config.architectures[0])
if method in ("nf4", "int8"):
    import bitsandbytes
if method == "hqq":
    import hqq.core.quantize
if engine != "transformers":
    import mlload
    from mlload.loader.loading import load
    import mlload.loader.execution.streaming, mlload.loader.execution.model_class
print("ready", flush=True)
sys.stdin.readline()
begun = time.perf_counter()
if engine == "transformers":
    bits = {"nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "int8": {"load_in_8bit": True}}
    quantization = transformers.BitsAndBytesConfig(**bits[method])
    model = model_class.from_pretrained(folder, dtype="auto", quantization_config=quantization, device_map="cpu")
else:
    quantization = mlload.QuantizationConfig(mlload.QuantizationMethod(method)) if method != "none" else None
    settings = mlload.ModelLoadingConfig(folder, device="cpu", quantization_config=quantization, quantized_cache=cache)
    model = load(settings).model
print(time.perf_counter() - begun, flush=True)
sys.stdin.readline()
"""

# The hqq library on an eighth of a layer of Llama 1.1 B, for it takes a quarter of an hour for the model. Weights a second.
LIBRARY = """
import time, torch
from hqq.core.quantize import Quantizer
weight = (torch.randn(2048, 2752) * 0.02).bfloat16()
Quantizer.quantize(weight[:64], axis=1, device="cpu")
begun = time.perf_counter()
Quantizer.quantize(weight, nbits=4, group_size=64, axis=1, device="cpu")
print(weight.numel() / (time.perf_counter() - begun))
"""

SMALL, LARGE = "llama-1.1b", "llama-2-7b"
LIMIT = 6 << 30
# Method, and who loads: an engine, and whether the quantized weights are kept for the next load.
FIRST: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("nf4", (("mlload", "on"), ("mlload", "off"), ("without numba", "off"), ("transformers", "off"))),
    ("int8", (("mlload", "on"), ("mlload", "off"), ("without numba", "off"), ("transformers", "off"))),
    ("hqq", (("mlload", "on"), ("mlload", "off"))),
)
SECOND = ("none", "nf4", "int8", "hqq")


@dataclass(frozen=True)
class Load:
    """Seconds of one load, and with imports; how far the process's anonymous memory rose over its imports: at the peak, and in the end."""

    seconds: float
    with_imports: float
    peak_bytes: int
    kept_bytes: int


def measure(runs: int = 3, *, large: bool = True) -> Iterator[str]:
    """The tables, line by line."""
    folder = synthetic(SMALL)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        yield from _first(folder, Path(scratch), runs)
        yield ""
        yield from _second(folder, Path(scratch), runs)
    if large:
        yield ""
        yield from _limited(runs)


def _first(folder: Path, cache: Path, runs: int) -> Iterator[str]:
    yield f"First load of {SMALL}: seconds from the call to the model, medians of {runs}; memory over the imports', sampled every ms:"
    yield ""
    yield "| method | engine | quantized weights are kept | s | times as fast as the library | with imports s | peak, kept MiB |"
    yield "|---|---|---|---|---|---|---|"
    count = sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 2
    for method, contenders in FIRST:
        loads: dict[tuple[str, str], list[Load]] = {contender: [] for contender in contenders}
        library: list[float] = []
        for _ in range(runs):
            for engine, keeping in contenders:
                shutil.rmtree(cache / "quantized", ignore_errors=True)
                loads[engine, keeping].append(_load(engine, folder, method, keeping, cache))
            is_hqq = method == "hqq"
            library.append(count / _hqq_rate() if is_hqq else loads["transformers", "off"][-1].seconds)
        yield from (_row(method, contender, each, library) for contender, each in loads.items())
        if method == "hqq":
            rate = count / median(library) / 1e6
            yield f"| hqq | hqq, from its {rate:.2f} million weights a second | | {median(library):.0f} | | | |"


def _row(method: str, contender: tuple[str, str], loads: Sequence[Load], library: Sequence[float]) -> str:
    ratio = median(theirs / load.seconds for load, theirs in zip(loads, library, strict=True))
    seconds = [f"{median(load.seconds for load in loads):.2f}", f"{ratio:.1f}", f"{median(load.with_imports for load in loads):.2f}"]
    memory = ", ".join(
        f"{median(sizes) / 2**20:,.0f}" for sizes in zip(*((load.peak_bytes, load.kept_bytes) for load in loads), strict=True)
    )
    return f"| {method} | {' | '.join([*contender, *seconds, memory])} |"


def _second(folder: Path, cache: Path, runs: int) -> Iterator[str]:
    yield f"Loads of {SMALL} from the quantized cache, beside one that maps its bfloat16 weights:"
    yield ""
    yield "| method | s | times as long as mapped | with imports s | times as long as mapped |"
    yield "|---|---|---|---|---|"
    loads: dict[str, list[Load]] = {method: [] for method in SECOND}
    for number in range(runs + 2):  # of the two before, one writes and one verifies what it reads
        for method in SECOND:
            load = _load("mlload", folder, method, "on" if method != "none" else "off", cache)
            if number >= 2:
                loads[method].append(load)
    for method, each in loads.items():
        pairs = list(zip(each, loads["none"], strict=True))
        cells: list[str] = []
        for name in ("seconds", "with_imports"):
            ratio = median(getattr(load, name) / getattr(mapped, name) for load, mapped in pairs)
            cells += [f"{median(getattr(load, name) for load in each):.3f}", f"{ratio:.2f}"]
        yield f"| {method} | {' | '.join(cells)} |"


def _limited(runs: int) -> Iterator[str]:
    """The large model, read from the disk, where there is less memory than it has bytes."""
    folder = synthetic(LARGE)
    paths = sorted(folder.glob("*.safetensors"))
    size = sum(path.stat().st_size for path in paths)
    yield f"{LARGE} ({size / 1e9:.1f} GB) to NF4, cold, in a hard limit of {LIMIT >> 30} GiB for memory and page cache:"
    yield ""
    yield "| quantized weights are kept | s | disk alone s | times as long | with imports s | peak, kept MiB |"
    yield "|---|---|---|---|---|---|"
    for keeping in ("off", "on"):
        loads: list[Load] = []
        disk: list[float] = []
        for _ in range(runs):
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch, memory_limit(LIMIT) as limited:
                disk.append(size / (measure_limits(paths, cold=True).read or 1))
                prepare(paths, "cold")
                loads.append(_load("mlload", folder, "nf4", keeping, Path(scratch), before=limited))
        ratio = median(load.seconds / alone for load, alone in zip(loads, disk, strict=True))
        seconds = [f"{value:.1f}" for value in (median(load.seconds for load in loads), median(disk), ratio)]
        seconds.append(f"{median(load.with_imports for load in loads):.1f}")
        memory = [f"{median(sizes) / 2**20:,.0f}" for sizes in zip(*((load.peak_bytes, load.kept_bytes) for load in loads), strict=True)]
        yield f"| {' | '.join([keeping, *seconds, ', '.join(memory)])} |"


def _hqq_rate() -> float:
    return float(subprocess.run([sys.executable, "-W", "ignore", "-c", LIBRARY], capture_output=True, text=True, check=True).stdout)


def _load(engine: str, folder: Path, method: str, keeping: str, cache: Path, *, before: Sequence[str] = ()) -> Load:
    command = [*before, sys.executable, "-W", "ignore", "-c", PROGRAM, engine, str(folder), method, keeping]
    started = time.perf_counter()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, env=os.environ | {"MLLOAD_CACHE": str(cache)}, **pipes) as process:
        while (line := process.stdout.readline().strip()) != "ready":
            assert line or process.poll() is None, f"{engine}, {method} ended before it was ready"
        imports = peak = _anonymous(process.pid)
        process.stdin.write("\n")
        process.stdin.flush()
        while not select.select([process.stdout], [], [], 0.001)[0]:
            peak = max(peak, _anonymous(process.pid))
        seconds, whole = float(process.stdout.readline()), time.perf_counter() - started
        kept = _anonymous(process.pid)
        process.communicate("\n")
    return Load(seconds, whole, max(peak, kept) - imports, kept - imports)


def _anonymous(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


if __name__ == "__main__":
    for line in measure(large="--small" not in sys.argv[1:]):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
