"""Options of `bench-load`, most of which take lists, and what their texts mean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from ..loader.bench.grid import BenchGrid

Item = TypeVar("Item")

Subject = Annotated[
    str | None, typer.Argument(metavar="[MODEL]", help="Folder, weights file, hub id or registered name.", show_default=False)
]
Synthetic = Annotated[
    str | None, typer.Option("--synthetic", metavar="SHAPE", help="Random weights of a known shape (llama-3-8b), or of a config.json.")
]
RemoveSynthetic = Annotated[
    bool, typer.Option("--remove-synthetic", help="Remove the checkpoint of --synthetic from the cache, and no more.")
]
Engines = Annotated[
    str, typer.Option("--engine", metavar="LIST", help="mlload, transformers, accelerate, safetensors, runai, fastsafetensors.")
]
Runs = Annotated[int, typer.Option("--runs", min=1, max=10_000, help="Rounds in which every row is run once.")]
WarmUp = Annotated[int, typer.Option("--warm-up", min=0, max=100, help="Rounds before these that count for nothing.")]
Strategies = Annotated[
    str | None, typer.Option("--strategy", metavar="LIST", help="Of mlload: full, low-memory, unified-memory, streaming.")
]
Quantizations = Annotated[str, typer.Option("--quantize", metavar="LIST", help="none, nf4, fp4, int8, hqq; mlx_int4, mlx_int8 for MLX.")]
Devices = Annotated[
    str | None, typer.Option("--device", metavar="LIST", help="cpu, cuda, cuda:1, mps, mlx; the best that is there if not given.")
]
Dtypes = Annotated[str, typer.Option("--dtype", metavar="LIST", help="auto (the checkpoint's own), float32, float16, bfloat16.")]
WorkerCounts = Annotated[str, typer.Option("--workers", metavar="LIST", help="Tensors read at once; -1 for what the engine thinks best.")]
PageCaches = Annotated[
    str, typer.Option("--page-cache", metavar="LIST", help="warm: the files are in memory; cold: no page of them is, which is checked.")
]
QuantizedCache = Annotated[
    str, typer.Option("--cache", metavar="on|off|only", help="Whether mlload keeps what --quantize makes for the next run.")
]
Prompt = Annotated[str | None, typer.Option("--prompt", metavar="TEXT", help="Go on from it: first token, tokens a second.")]
NewTokens = Annotated[int, typer.Option("--max-new-tokens", min=1, max=100_000, help="How far to go on.")]
Predicted = Annotated[bool, typer.Option("--predicted", help="Show the plan's peak memory beside the measured one.")]
Csv = Annotated[bool, typer.Option("--csv", help="Print a line for every run.")]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print the tables in Markdown.")]
Plot = Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Draw seconds, and memory over time (.png, .svg, .pdf).")]
Save = Annotated[Path | None, typer.Option("--save", metavar="FILE", help="Write what was measured, to be compared with later.")]
Compare = Annotated[Path | None, typer.Option("--compare", metavar="FILE", help="Exit with 7 if a row is worse than in this file.")]
MaxRegression = Annotated[str, typer.Option("--max-regression", metavar="SHARE", help="With --compare: how much worse it may be.")]


def grid(*, engine: str, strategy: str | None, quantize: str, device: str | None, dtype: str, workers: str, page_cache: str) -> BenchGrid:
    """The grid of these lists. Raises UsageError for one that is empty or can't be read."""
    from ..loader.bench.grid import BenchGrid

    return BenchGrid(
        engines=listed(engine),
        strategies=[None] if strategy is None else listed(strategy),
        quantize=listed(quantize),
        devices=[None] if device is None else listed(device),
        dtypes=listed(dtype),
        workers=listed(workers, int),
        page_caches=listed(page_cache),
    )


def listed(text: str, item: Callable[[str], Item] = str) -> list[Item]:
    """The items of a list with commas, each once."""
    from ..loader.errors import UsageError

    try:
        items = [item(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(f"'{text}' is no list of numbers") from None
    if not items:
        raise UsageError("an empty list makes no rows", hint="separate names with commas")
    return list(dict.fromkeys(items))


def share(text: str) -> float:
    """A share: `10%` or `0.1`. Raises UsageError for anything else."""
    from ..loader.errors import UsageError

    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 100:
        raise UsageError(f"'{text}' is no share", hint="write 10% or 0.1")
    return value
