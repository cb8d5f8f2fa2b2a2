"""Loading to a CUDA device, as load_models.py does to the CPU."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator

import load_models
import torch
import transformers

FIGURES = (
    ("Llama 2, 7 B, warm", "--synthetic llama-2-7b --engine mlload,transformers,fastsafetensors,runai --device cuda --runs 2 --predicted"),
    (
        "Llama 2, 7 B, quantized",
        "--synthetic llama-2-7b --engine mlload,transformers --device cuda --quantize nf4,int8 --runs 1 --predicted",
    ),
    ("Mixture of 32 experts", "--synthetic qwen3-moe-1gb --engine mlload,transformers --device cuda --runs 2 --predicted"),
)


def measure() -> Iterator[str]:
    """Every figure under its command, line by line."""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
    yield f"On one {torch.cuda.get_device_name()} with {os.cpu_count()} cores, {versions}."
    yield ""
    for title, options in FIGURES:
        yield from load_models.figure(title, options)


if __name__ == "__main__":
    for line in measure():
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
