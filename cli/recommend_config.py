"""`mlload recommend-config`: which way to load a model on this machine, or on one that is described, with the memory it will take."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .options import Debug, Json, Model
from .output import note, print_json, print_tables, waiting
from .recommend_options import (
    All,
    Attention,
    Batch,
    CacheBits,
    Context,
    Device,
    Explain,
    Gpus,
    HostMemory,
    MeasureDisk,
    Memory,
    Objective,
    Plot,
    Verify,
    Write,
)

if TYPE_CHECKING:
    from ..loader.checkpoint import Checkpoint
    from ..loader.recommend.candidates import Candidate
    from ..loader.recommend.machine import Machine
    from ..loader.recommend.recommendation import Recommendation
    from ..loader.recommend.use import Use
    from ..loader.recommend.verify import Verified


def recommend_config(
    model: Model,
    objective: Objective = "balanced",
    context: Context = None,
    batch: Batch = 1,
    attention: Attention = "sdpa",
    cache_bits: CacheBits = None,
    device: Device = None,
    memory: Memory = None,
    gpus: Gpus = None,
    host_memory: HostMemory = None,
    measure_disk: MeasureDisk = False,
    explain: Explain = False,
    show_all: All = False,
    write: Write = None,
    verify: Verify = False,
    plot: Plot = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Know which way to load a model here, and the memory it will really take; or on a machine that you describe.

    Reads headers only: compares precision, quantization, strategy and devices, and says of each whether it fits, or by how much not.
    """
    del debug  # read where errors are turned into lines
    _check_files(write, plot)
    with waiting(f"reading {model}"):
        checkpoint = _opened(model)
    ask = partial(
        _recommended,
        checkpoint,
        _machine(checkpoint, device=device, memory=memory, gpus=gpus, host_memory=host_memory, measure_disk=measure_disk),
        use=_use(checkpoint, context=context, batch=batch, attention=attention, cache_bits=cache_bits),
        objective=objective,
        device=device,
    )
    found = ask()
    if verify and found.best is not None and _measured_frameworks(found, found.best):
        found = ask()
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


def _opened(model: str) -> Checkpoint:
    from ..loader.checkpoint import Checkpoint

    return Checkpoint.open(model)


def _machine(
    checkpoint: Checkpoint, *, device: str | None, memory: str | None, gpus: str | None, host_memory: str | None, measure_disk: bool
) -> Machine:
    """The one that is described, else this one."""
    from ..loader.recommend.machine import declared_machine
    from ..loader.recommend.recommendation import best_backend, machine_for
    from ..loader.settings import parse_bytes

    if memory is None and gpus is None:
        return machine_for(checkpoint, measure_disk=measure_disk)
    host = None if host_memory is None else parse_bytes(host_memory)
    return declared_machine(device=device or (None if gpus else best_backend().value), memory=memory, gpus=gpus, host=host)


def _use(checkpoint: Checkpoint, *, context: int | None, batch: int, attention: str, cache_bits: int | None) -> Use:
    from ..loader.recommend.recommendation import usual_use

    use = usual_use(checkpoint)
    context = use.context if context is None else context
    return replace(use, context=context, batch=batch, attention=attention, cache_bits=cache_bits)


def _recommended(checkpoint: Checkpoint, machine: Machine, *, use: Use, objective: str, device: str | None) -> Recommendation:
    from ..loader.recommend.recommendation import recommend

    return recommend(checkpoint, objective=objective, machine=machine, backend=device, use=use)


def _measured_frameworks(found: Recommendation, best: Candidate) -> bool:
    """Measure what the frameworks that it takes take here; whether that was not known yet."""
    from ..loader.recommend.calibration import measure_lacking
    from ..loader.recommend.verify import check_is_here

    check_is_here(found, best)
    with waiting("measuring what frameworks take"):
        return measure_lacking(best.frameworks)


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
