"""Loading whole models: the figures that are asked for, each one a call of `mlload bench-load` on a synthetic checkpoint."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

MLLOAD = str(Path(sys.executable).parent / "mlload")
PEERS = "mlload,transformers,accelerate,safetensors,runai,fastsafetensors"

# What is shown, and the command that shows it. Where a run takes a minute there are few of them.
FIGURES = (
    ("Llama, 1.1 B, warm", f"--synthetic llama-1.1b --engine {PEERS} --runs 7"),
    ("Llama, 1.1 B, cold", f"--synthetic llama-1.1b --engine {PEERS} --page-cache cold --runs 5"),
    ("Mixture of 32 experts, 1.1 GB, warm", "--synthetic qwen3-moe-1gb --engine mlload,transformers --runs 7"),
    ("Mixture of 32 experts, 1.1 GB, cold", "--synthetic qwen3-moe-1gb --engine mlload,transformers --page-cache cold --runs 5"),
    ("Llama, 1.1 B, to float32", "--synthetic llama-1.1b --engine mlload,transformers --dtype float32 --runs 5 --predicted"),
    (
        "Llama, 1.1 B, quantized while loading",
        "--synthetic llama-1.1b --engine mlload,transformers --quantize nf4,int8 --runs 1 --warm-up 0 --predicted",
    ),
    ("Llama, 1.1 B, quantized weights from the cache", "--synthetic llama-1.1b --quantize none,nf4 --cache on --runs 5"),
    (
        "Llama, 1.1 B, streamed in 300 MiB",
        "--synthetic llama-1.1b --strategy full,streaming --resident 300MiB --prompt 'A shard is' --runs 3 --predicted",
    ),
    ("The seed's table: standard, quantized, low memory", "--synthetic llama-2-7b --strategy full,low-memory --quantize none,nf4 --runs 1"),
    ("Llama 2, 7 B, cold", "--synthetic llama-2-7b --engine mlload,transformers --page-cache cold --runs 3 --warm-up 0"),
    (
        "Llama 2, 7 B, streamed in 2 GiB",
        "--synthetic llama-2-7b --strategy streaming --resident 2GiB --prompt 'A shard is' --max-new-tokens 4 --runs 1 --predicted",
    ),
)


def measure() -> Iterator[str]:
    """Every figure under its command, line by line. What an engine can't do stands below its table."""
    for title, options in FIGURES:
        yield f"### {title}"
        yield ""
        yield f"`mlload bench-load {options}`"
        yield ""
        done = subprocess.run([MLLOAD, "bench-load", *shlex.split(options), "--markdown"], capture_output=True, text=True, check=False)
        yield from done.stdout.splitlines()
        yield from (f"\n{line}" for line in done.stderr.splitlines() if done.returncode)
        yield ""


if __name__ == "__main__":
    for line in measure():
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
