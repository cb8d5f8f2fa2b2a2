"""Arguments and options that several commands share, declared once."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="Folder, weights file, hub id (org/name or org/name@revision) or registered name.", show_default=False
    ),
]
Models = Annotated[
    list[str] | None,
    typer.Argument(metavar="[MODEL]...", help="What to load: as for inspect. Several share the memory.", show_default=False),
]
Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings in YAML or TOML; options that are given win over them.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
File = Annotated[
    str | None, typer.Option("--file", metavar="NAME", help="The weights file to take where there are several; with --diff on both sides.")
]

# How a model is loaded: of every command that loads one.


def _option(panel: str, *names: str, **details: Any) -> Any:
    """An option that `--help` shows in a panel with others of its kind."""
    return typer.Option(*names, rich_help_panel=panel, **details)


_model = partial(_option, "The model")
_memory = partial(_option, "Memory and speed")
_quantization = partial(_option, "Quantization")

Dtype = Annotated[str, _model("--dtype", help="auto (the checkpoint's own), float32, float16 or bfloat16.")]
Device = Annotated[str | None, _model("--device", help="cpu, cuda, cuda:1, mps, mlx; the best that is there if not given.")]
Attention = Annotated[str | None, _model("--attention", help="eager, sdpa, flash_attention_2 ...; the model's own if not given.")]
UseCache = Annotated[
    bool | None, _model("--use-cache/--no-use-cache", help="Keep keys and values of earlier tokens; the model's own if not given.")
]
LlamaPro = Annotated[str | None, _model("--llama-pro", metavar="DIR", help="Expanded weights for MODEL, as in blk_exp-32-40.")]
AllowMissing = Annotated[bool, _model("--allow-missing", help="Initialise at random what the checkpoint lacks.")]
TrustRemoteCode = Annotated[bool, _model("--trust-remote-code", help="Run the code that comes with the checkpoint.")]

Strategy = Annotated[str | None, _memory("--strategy", help="full, low-memory, unified-memory or streaming.")]
Memory = Annotated[
    str | None, _memory("--memory", metavar="SIZE", help="What the weights of all models may take (6GiB); what is free if not given.")
]
MaxMemory = Annotated[
    str | None, _memory("--max-memory", metavar="DEVICE=SIZE,...", help="The same for each device: cuda:0=10GiB,cuda:1=20GiB or cpu=6GiB.")
]
Trim = Annotated[bool, _memory("--trim", help="Give freed memory back at once: a forward holds less, and takes somewhat longer.")]
OffloadToCpu = Annotated[bool, _memory("--offload-to-cpu", help="Leave the weights on the host; bring each unit to the device to compute.")]
Resident = Annotated[str | None, _memory("--resident", metavar="SIZE", help="Stream, with at most so much of weights in memory (2GiB).")]
Workers = Annotated[int, _memory("--workers", min=-1, max=256, help="Tensors read at once; -1 for what suits the device.")]
Mmap = Annotated[bool, _memory("--mmap/--no-mmap", help="Use the files' own pages, or read them into memory.")]
Rank = Annotated[int, _memory("--rank", min=0, envvar="RANK", help="With low-memory: only rank 0 gets weights. torchrun sets it.")]
WorldSize = Annotated[int, _memory("--world-size", min=1, envvar="WORLD_SIZE", help="How many ranks there are. torchrun sets it.")]

Quantize = Annotated[
    str | None,
    _quantization(
        "--quantize", metavar="METHOD", help="nf4, fp4, int8 or hqq, while loading; auto: what fits; mlx_int4, mlx_int8: for MLX."
    ),
]
Bits = Annotated[int | None, _quantization("--bits", help="With hqq: 1, 2, 3, 4 or 8 bits a weight; 4 if not given.")]
GroupSize = Annotated[int | None, _quantization("--group-size", help="With hqq and MLX: weights that share a scale; 64 if not given.")]
Axis = Annotated[int, _quantization("--axis", help="With hqq: 1 for groups of inputs, 0 for groups of outputs.")]
DoubleQuant = Annotated[bool, _quantization("--double-quant", help="With nf4 and fp4: quantize the scales, too.")]
ComputeDtype = Annotated[str | None, _quantization("--compute-dtype", help="Of the arithmetic on dequantized weights.")]
QuantStorage = Annotated[str | None, _quantization("--quant-storage", help="With nf4 and fp4: dtype that packed weights are kept in.")]
SkipModules = Annotated[
    str | None, _quantization("--skip-modules", metavar="A,B", help="Modules to leave as they are, beside the output head.")
]
Cache = Annotated[
    str, _quantization("--cache", metavar="on|off|only", help="Keep what --quantize makes for the next load; only: take nothing else.")
]
