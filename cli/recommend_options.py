"""Options of `mlload recommend-config`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

_use = partial(typer.Option, rich_help_panel="What it is used for")
_machine = partial(typer.Option, rich_help_panel="The machine")

Objective = Annotated[str, typer.Option("--objective", help="balanced, fidelity, speed or memory: what to rank by.")]
Explain = Annotated[bool, typer.Option("--explain", help="Show the arithmetic of every number, and its source.")]
All = Annotated[bool, typer.Option("--all", help="Show all candidates, not the first ones alone.")]
Write = Annotated[Path | None, typer.Option("--write", metavar="FILE", help="Write the settings to a .yaml that `mlload load` takes.")]
Verify = Annotated[bool, typer.Option("--verify", help="Load it that way in a process of its own, and measure.")]
Plot = Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Draw the candidates' memory: .png, .svg, .pdf.")]

Context = Annotated[int | None, _use("--context", help="Tokens of a sequence; 2,048, or as many as the model reads.")]
Batch = Annotated[int, _use("--batch", help="Sequences at once.")]
Attention = Annotated[str, _use("--attention", help="sdpa, eager or flash_attention_2.")]
CacheBits = Annotated[int | None, _use("--cache-bits", help="Of keys and values in transformers' quantized cache: 2, 4, 8.")]

Device = Annotated[str | None, _machine("--device", help="cpu, cuda or mps, and no other; with --memory of a described machine.")]
Memory = Annotated[str | None, _machine("--memory", metavar="SIZE", help="What the described device has (24GiB).")]
Gpus = Annotated[str | None, _machine("--gpus", metavar="NxSIZE", help="CUDA devices of a described machine (2x24GiB).")]
HostMemory = Annotated[str | None, _machine("--host-memory", metavar="SIZE", help="What the host of described devices has.")]
MeasureDisk = Annotated[bool, _machine("--measure-disk", help="Read up to 4 GiB of the weights to know how fast that is.")]
