"""`mlload recommend-config`: which way to load a model on this machine, or on one that is described, with the memory it will take."""

from __future__ import annotations

from dataclasses import replace
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
    machine = _Described(device, memory, gpus, host_memory, measure_disk)
    found = _recommended(model, objective, _Asked(context, batch, attention, cache_bits), machine, calibrated=verify)
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
        context = use.context if self._context is None else self._context
        return replace(use, context=context, batch=self._batch, attention=self._attention, cache_bits=self._cache_bits)


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


def _recommended(model: str, objective: str, asked: _Asked, described: _Described, *, calibrated: bool) -> Recommendation:
    """What is recommended; `calibrated` with what the frameworks that it takes are measured to take here."""
    from ..loader.checkpoint import Checkpoint
    from ..loader.recommend.recommendation import recommend

    with waiting(f"reading {model}"):
        checkpoint = Checkpoint.open(model)
    device = None if described.device is None else described.device.partition(":")[0]
    machine, use = described.machine(checkpoint), asked.use(checkpoint)
    found = recommend(checkpoint, objective=objective, machine=machine, backend=device, use=use)
    if not calibrated or found.best is None:
        return found
    from ..loader.recommend.calibration import measure_lacking

    with waiting("measuring what frameworks take"):
        is_new = measure_lacking(found.best.frameworks)
    return recommend(checkpoint, objective=objective, machine=machine, backend=device, use=use) if is_new else found


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
