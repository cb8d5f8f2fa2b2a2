"""`recommend`: which way to load a checkpoint on a machine, of all that there are, with the memory that each takes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..architecture import Kind
from ..checkpoint import Checkpoint
from ..errors import DoesNotFitError, UsageError
from ..preconditions import check_checkpoint
from ..settings import Backend, LoadingStrategy, ModelLoadingConfig, choice
from ..settings_mapping import plain_settings
from ..text import did_you_mean, format_bytes
from .candidates import Candidate, Scene, candidates
from .frameworks import known_frameworks
from .machine import Machine, declared_machine, only, this_machine
from .use import Use

SCHEMA = "mlload.recommend/1"
_GB = 1 << 30

Key = Callable[[Candidate], tuple[float, ...]]


def _error(each: Candidate) -> tuple[float, ...]:
    """One tensor at a time is slower than all at once, where both have room."""
    return each.way.loss, each.speed.seconds, each.way.strategy is LoadingStrategy.LOW_MEMORY, each.footprint.nbytes


# What each objective looks at, the first thing first; less is better.
OBJECTIVES: Mapping[str, tuple[str, Key]] = {
    "balanced": ("nothing is read twice, then the least error, then the fastest", lambda each: (each.streams, *_error(each))),
    "fidelity": ("the least error, then the fastest", _error),
    "speed": ("the fastest, then the least error", lambda each: (each.speed.seconds, *_error(each))),
    "memory": ("the least memory, then the least error", lambda each: (each.footprint.nbytes, *_error(each))),
}


@dataclass(frozen=True)
class Recommendation:
    """All candidates, those that fit first and the best of them first; then those that do not, by what is lacking."""

    reference: str
    kind: Kind | None
    use: Use
    objective: str
    machine: Machine
    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...]

    @property
    def best(self) -> Candidate | None:
        """What is recommended; None where nothing fits."""
        return next((each for each in self.candidates if each.fits), None)

    @property
    def nearest(self) -> Candidate | None:
        """Of those that could be done here if there were room, the one that lacks least."""
        return next((each for each in self.candidates if each.problem is None), None)

    def settings(self, candidate: Candidate | None = None) -> ModelLoadingConfig:
        """What `load` is to be asked for. Raises DoesNotFitError where nothing fits."""
        chosen = candidate or self.best
        if chosen is None:
            self.check()
            raise AssertionError
        attention = None if self.use.attention == "sdpa" else self.use.attention
        return chosen.way.settings(self.reference, attention=attention, rooms=chosen.rooms)

    def check(self) -> None:
        """Raises DoesNotFitError, with the nearest thing and what streaming takes, where nothing fits."""
        if self.best is not None:
            return
        nearest = self.nearest
        if nearest is None:
            problem = next((each.problem for each in self.candidates), "no device")
            raise DoesNotFitError(f"{self.reference} can't be loaded here: {problem}", hint="mlload inspect shows what it is")
        message = f"{self.reference} does not fit in any way; nearest is {nearest.way.label}: {nearest.verdict}"
        raise DoesNotFitError(message, hint=self._way_out())

    def _way_out(self) -> str:
        streamed = [each for each in self.candidates if each.way.is_streamed and each.problem is None]
        least = min(streamed, key=lambda each: each.footprint.nbytes, default=None)
        shorter = "a smaller --context or --batch takes less"
        return shorter if least is None else f"streaming needs {format_bytes(least.footprint.nbytes)} ({least.way.label}); {shorter}"

    def to_json(self) -> dict[str, object]:
        """One object of plain values."""
        best = self.best
        return {
            "schema": SCHEMA,
            "reference": self.reference,
            "kind": None if self.kind is None else self.kind.value,
            "objective": self.objective,
            "context": self.use.context,
            "batch": self.use.batch,
            "attention": self.use.attention,
            "cache_bits": self.use.cache_bits,
            "machine": self.machine.to_json(),
            "recommended": None if best is None else self._line(best),
            "nearest": None if best is not None or self.nearest is None else self._line(self.nearest),
            "candidates": [self._line(each) for each in self.candidates],
            "notes": list(self.notes),
        }

    def _line(self, each: Candidate) -> dict[str, object]:
        way, taken = each.way, each.footprint
        return {
            "backend": way.backend.value,
            "devices": list(way.devices),
            "dtype": way.dtype,
            "precision": way.precision,
            "strategy": way.strategy.value,
            "resident": way.resident,
            "offload_to_cpu": way.offload,
            "fits": each.fits,
            "verdict": each.verdict,
            "short": dict(each.short),
            "loss": round(way.loss, 6),
            "seconds_a_token": each.speed.seconds,
            "bytes": taken.nbytes,
            "host_bytes": taken.host,
            "peak": dict(taken.peak),
            "loading": dict(taken.loading),
            "computing": dict(taken.computing),
            "components": [component.to_json() for component in taken.components],
            "settings": plain_settings(self.settings(each)),
        }


def recommend(
    model: str | os.PathLike[str] | Checkpoint,
    *,
    objective: str = "balanced",
    machine: Machine | None = None,
    backend: Backend | str | None = None,
    use: Use | None = None,
) -> Recommendation:
    """Compare all ways to load `model` on `machine` (this one, unless one is given), of one `backend` or of all; nothing is loaded.

    Reads headers and config only, and imports no torch. Raises what `Checkpoint.open` raises, and what speaks against loading.
    """
    if objective not in OBJECTIVES:
        raise UsageError(f"unknown objective '{objective}'", hint=did_you_mean(objective, OBJECTIVES) or f"known: {', '.join(OBJECTIVES)}")
    checkpoint = model if isinstance(model, Checkpoint) else Checkpoint.open(model)
    check_checkpoint(checkpoint, allow_missing=False)
    machine = machine or machine_for(checkpoint)
    if backend is not None:
        machine = only(machine, choice(Backend, backend) if isinstance(backend, str) else backend)
    scene = Scene(checkpoint, machine, use or usual_use(checkpoint), known_frameworks())
    found = list(candidates(scene)) if backend is None else _of_backend(scene, backend)
    return Recommendation(
        reference=checkpoint.reference,
        kind=checkpoint.architecture.kind,
        use=scene.use,
        objective=objective,
        machine=machine,
        candidates=tuple(ranked(found, objective)),
        notes=tuple(_notes(scene)),
    )


def ranked(found: Sequence[Candidate], objective: str) -> list[Candidate]:
    """The best that fits first; then what would fit with more memory, the least lacking first; then what can't be done here."""
    key = OBJECTIVES[objective][1]
    fitting = sorted((each for each in found if each.fits), key=key)
    lacking = sorted(
        (each for each in found if each.problem is None and each.short), key=lambda each: (sum(each.short.values()), *key(each))
    )
    return [*fitting, *lacking, *(each for each in found if each.problem is not None)]


def get_recommended_loader_config(
    model_name: str | os.PathLike[str],
    backend: Backend | str | None = None,
    available_memory_gb: float | None = None,
    *,
    objective: str = "balanced",
    context: int | None = None,
    batch: int = 1,
) -> ModelLoadingConfig:
    """The config to load `model_name` with: quantization and strategy that fit in so much memory (GiB), or in what this machine has.

    With `available_memory_gb` the machine is a described one, and `backend` need not be here. Raises DoesNotFitError where nothing fits.
    """
    chosen = choice(Backend, backend) if isinstance(backend, str) else backend
    described = None
    if available_memory_gb is not None:
        described = declared_machine(device=(chosen or best_backend()).value, memory=int(available_memory_gb * _GB))
    checkpoint = Checkpoint.open(model_name)
    use = replace(usual_use(checkpoint), batch=batch, **({} if context is None else {"context": context}))
    return recommend(checkpoint, objective=objective, machine=described, backend=chosen, use=use).settings()


def best_backend() -> Backend:
    """What computes here: CUDA before Apple's GPU before the CPU."""
    hardware = this_machine().hardware
    return Backend.CUDA if hardware.cuda else Backend.MPS if hardware.mps else Backend.CPU


def _of_backend(scene: Scene, backend: Backend | str) -> list[Candidate]:
    wanted = choice(Backend, backend) if isinstance(backend, str) else backend
    if wanted is Backend.MLX:
        raise UsageError("what a model takes with MLX is not known", hint="--device mps; mlload load --device mlx loads it all the same")
    found = [each for each in candidates(scene) if each.way.backend is wanted]
    if not found:
        raise DoesNotFitError(f"there is no {wanted.value} device here", hint=f"describe one: --device {wanted.value} --memory 24GiB")
    return found


def machine_for(checkpoint: Checkpoint, *, measure_disk: bool = False) -> Machine:
    """This machine, with the disk that the weights are on, or will be; its speed only where it is to be measured."""
    folder = _folder(checkpoint)
    machine = this_machine(folder or Path.home())
    if not measure_disk or machine.disk is None:
        return machine
    if folder is None:
        raise UsageError("the weights are not on a disk yet", hint="download the model first, or leave --measure-disk out")
    from ..bench.limits import measure_limits

    limits = measure_limits([folder / name for name in checkpoint.shards], cold=True)
    return replace(machine, disk=replace(machine.disk, read_rate=limits.read))


def usual_use(checkpoint: Checkpoint) -> Use:
    """Two thousand tokens, or as many as the model reads."""
    from .shapes import shapes_of

    longest = shapes_of(checkpoint).context
    return Use(context=max(1, min(Use().context, longest or Use().context)))


def _folder(checkpoint: Checkpoint) -> Path | None:
    return None if checkpoint.source == "hub" else Path(checkpoint.location)


def _notes(scene: Scene) -> list[str]:
    """What a person should know beside the table."""
    notes: list[str] = []
    machine, shapes = scene.machine, scene.shapes
    if not machine.host_is_known:
        notes.append("nothing is known of the host's memory; --host-memory says what there is")
    if shapes.context and scene.use.context > shapes.context:
        notes.append(f"the model was made for {shapes.context:,} tokens, not {scene.use.context:,}")
    if len(machine.nodes) > 1:
        notes.append(f"the memory is in {len(machine.nodes)} nodes: what exceeds one is slower to reach")
    if scene.checkpoint.source == "hub" and machine.disk is not None:
        size, room = sum(part.source_bytes for part in scene.parts), machine.disk.free_bytes
        notes.append(f"the weights, {format_bytes(size)}, have to be downloaded first; the disk has room for {format_bytes(room)}")
    if shapes.kind is Kind.DECODER_ONLY and shapes.kv_cache is None:
        notes.append("what the model keeps of earlier tokens can't be told from its config, and is left out")
    if shapes.kind is Kind.VISION_LANGUAGE:
        notes.append("what images take is left out")
    return notes
