"""`mlload recommend-config`: which way to load a model on this machine, or on one that is described, with the memory it will take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Debug, Json, Model
from .output import note, print_json, print_tables, waiting

if TYPE_CHECKING:
    from ..loader.checkpoint import Checkpoint
    from ..loader.recommend.machine import Machine
    from ..loader.recommend.recommendation import Recommendation
    from ..loader.recommend.use import Use
    from ..loader.recommend.verify import Verified

_MACHINE, _USE = "The machine", "What it is used for"


def recommend_config(
    model: Model,
    objective: Annotated[str, typer.Option("--objective", help="balanced, fidelity, speed or memory: what to rank by.")] = "balanced",
    context: Annotated[
        int | None, typer.Option("--context", help="Tokens of a sequence; 2,048, or as many as the model reads.", rich_help_panel=_USE)
    ] = None,
    batch: Annotated[int, typer.Option("--batch", help="Sequences at once.", rich_help_panel=_USE)] = 1,
    attention: Annotated[str, typer.Option("--attention", help="sdpa, eager or flash_attention_2.", rich_help_panel=_USE)] = "sdpa",
    cache_bits: Annotated[
        int | None, typer.Option("--cache-bits", help="Keys and values in transformers' quantized cache: 2, 4, 8.", rich_help_panel=_USE)
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", help="cpu, cuda or mps alone; with --memory a described one.", rich_help_panel=_MACHINE),
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", metavar="SIZE", help="Memory that the described device has (24GiB).", rich_help_panel=_MACHINE)
    ] = None,
    gpus: Annotated[
        str | None,
        typer.Option("--gpus", metavar="NxSIZE", help="CUDA devices of a described machine (2x24GiB).", rich_help_panel=_MACHINE),
    ] = None,
    host_memory: Annotated[
        str | None,
        typer.Option("--host-memory", metavar="SIZE", help="Memory beside described devices.", rich_help_panel=_MACHINE),
    ] = None,
    measure_disk: Annotated[
        bool, typer.Option("--measure-disk", help="Read up to 4 GiB of the weights to know how fast that is.", rich_help_panel=_MACHINE)
    ] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show the arithmetic of every number, and its source.")] = False,
    show_all: Annotated[bool, typer.Option("--all", help="Show all candidates, not the first ones alone.")] = False,
    write: Annotated[Path | None, typer.Option("--write", metavar="FILE", help="Write what `load --config` takes (.yaml).")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Load it that way in a process of its own, and measure.")] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw the memory of the candidates: .png, .svg, .pdf.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Know which way to load a model here, and the memory it will really take; or on a machine that you describe.

    Reads headers only: compares precision, quantization, strategy and devices, and says of each whether it fits, or by how much not.
    """
    del debug  # read where errors are turned into lines
    _check_files(write, plot)
    found = _recommended(
        model,
        objective,
        _Asked(context, batch, attention, cache_bits),
        _Described(device, memory, gpus, host_memory, measure_disk),
    )
    if write is not None and found.best is not None:
        _write(write, found)
    if plot is not None:
        _plot(plot, found)
    measured = _verified(found) if verify and found.best is not None else None
    if as_json:
        print_json(found.to_json() | ({} if measured is None else {"verified": measured.to_json()}))
    else:
        from .recommend_tables import recommend_tables

        print_tables(recommend_tables(found, measured, explain=explain, show_all=show_all))
    for text in found.notes:
        note(f"note: {text}")
    found.check()


class _Asked:
    """What the model is to be used for, as typed."""

    def __init__(self, context: int | None, batch: int, attention: str, cache_bits: int | None) -> None:
        self._context, self._batch, self._attention, self._cache_bits = context, batch, attention, cache_bits

    def use(self, checkpoint: Checkpoint) -> Use:
        from ..loader.recommend.recommendation import usual_use

        use = usual_use(checkpoint)
        return replace(use, context=self._context or use.context, batch=self._batch, attention=self._attention, cache_bits=self._cache_bits)


class _Described:
    """The machine, as typed."""

    def __init__(self, device: str | None, memory: str | None, gpus: str | None, host_memory: str | None, measure_disk: bool) -> None:
        self.device, self._memory, self._gpus, self._host_memory = device, memory, gpus, host_memory
        self._measure_disk = measure_disk

    def machine(self, checkpoint: Checkpoint) -> Machine | None:
        """None for this one as it is."""
        from ..loader.recommend.machine import declared_machine
        from ..loader.recommend.recommendation import best_backend, machine_for
        from ..loader.settings import parse_bytes

        if self._memory is not None or self._gpus is not None:
            device = self.device or (None if self._gpus else best_backend().value)
            host = None if self._host_memory is None else parse_bytes(self._host_memory)
            return declared_machine(device=device, memory=self._memory, gpus=self._gpus, host=host)
        return machine_for(checkpoint, measure_disk=self._measure_disk)


def _recommended(model: str, objective: str, asked: _Asked, described: _Described) -> Recommendation:
    from ..loader.checkpoint import Checkpoint
    from ..loader.recommend.recommendation import recommend

    with waiting(f"reading {model}"):
        checkpoint = Checkpoint.open(model)
    device = None if described.device is None else described.device.partition(":")[0]
    return recommend(checkpoint, objective=objective, machine=described.machine(checkpoint), backend=device, use=asked.use(checkpoint))


def _check_files(write: Path | None, plot: Path | None) -> None:
    """What is to be written must be of a kind that can be, before anything is read."""
    if write is not None and write.suffix.lower() not in (".yaml", ".yml"):
        from ..loader.errors import UsageError

        raise UsageError(f"{write} is no .yaml", hint="--write load.yaml")
    if plot is not None:
        from .bench_plot import require_plotting

        require_plotting(plot)


def _write(path: Path, found: Recommendation) -> None:
    from ..loader.settings_file import settings_text
    from ..loader.writing import write_whole

    write_whole(path, settings_text(found.settings()).encode())


def _plot(path: Path, found: Recommendation) -> None:
    from ..loader.writing import write_whole
    from .recommend_plot import plotted

    write_whole(path, plotted(found, path.suffix[1:]))


def _verified(found: Recommendation) -> Verified:
    from ..loader.recommend.verify import verify

    with waiting(f"loading {found.reference}"):
        return verify(found)
