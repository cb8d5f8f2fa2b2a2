"""Arguments and options that several commands share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="Folder, weights file, hub id (org/name or org/name@revision) or registered name.", show_default=False
    ),
]
Models = Annotated[
    list[str] | None, typer.Argument(metavar="[MODEL]...", help="What to load; several share the memory.", show_default=False)
]
Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings in YAML or TOML; options that are given win over them.")
]
Memory = Annotated[
    str | None, typer.Option("--memory", metavar="SIZE", help="What the weights of all models may take (6GiB); what is free if not given.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Resident = Annotated[
    str | None, typer.Option("--resident", metavar="SIZE", help="Stream, with at most so much of weights in memory (2GiB).")
]
File = Annotated[
    str | None, typer.Option("--file", metavar="NAME", help="The weights file to take where there are several; with --diff on both sides.")
]

# How a model is loaded: of every command that loads one.
Dtype = Annotated[str, typer.Option("--dtype", help="auto (the checkpoint's own), float32, float16 or bfloat16.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps, mlx; the best that is there if not given.")]
Strategy = Annotated[str | None, typer.Option("--strategy", help="full, low-memory, unified-memory or streaming.")]
Quantize = Annotated[
    str | None, typer.Option("--quantize", metavar="METHOD", help="nf4, fp4, int8 or hqq, while loading; mlx_int4 or mlx_int8 for MLX.")
]
Bits = Annotated[int | None, typer.Option("--bits", help="With hqq: 1, 2, 3, 4 or 8 bits a weight; 4 if not given.")]
GroupSize = Annotated[int | None, typer.Option("--group-size", help="With hqq and MLX: weights that share a scale; 64 if not given.")]
Axis = Annotated[int, typer.Option("--axis", help="With hqq: 1 for groups of inputs, 0 for groups of outputs.")]
DoubleQuant = Annotated[bool, typer.Option("--double-quant", help="With nf4 and fp4: quantize the scales, too.")]
Cache = Annotated[
    str, typer.Option("--cache", metavar="on|off|only", help="Keep what --quantize makes for the next load; only: take nothing else.")
]
Workers = Annotated[int, typer.Option("--workers", min=-1, max=256, help="Tensors read at once; -1 for what suits the device.")]
Attention = Annotated[str | None, typer.Option("--attention", help="eager, sdpa, flash_attention_2 ...; the model's own if not given.")]
Mmap = Annotated[bool, typer.Option("--mmap/--no-mmap", help="Use the files' own pages, or read them into memory.")]
AllowMissing = Annotated[bool, typer.Option("--allow-missing", help="Initialise at random what the checkpoint lacks.")]
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run the code that comes with the checkpoint.")]
