"""Every way in which `mlload load` could load a checkpoint on a machine, each with the memory it takes and whether that is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec

from ..architecture import Kind
from ..checkpoint import Checkpoint
from ..execution.backends import BACKENDS
from ..settings import Backend, LoadingStrategy
from ..text import format_bytes
from .component import ANONYMOUS, MAPPED
from .footprint import Footprint, Subject, footprint
from .frameworks import Frameworks
from .machine import Machine
from .precisions import Precision, precisions
from .shapes import Shapes, shapes_of
from .sketch import Part, PlanSketch, parts_of, sketch
from .speed import Estimate, seconds_a_token
from .use import Use
from .way import Way

MARGIN = 0.05  # of a prediction: what it was seen to be under at most
HOST = "host"
_BOUNDLESS = 1 << 62


@dataclass(frozen=True)
class Candidate:
    """A way, what it takes, and what that leaves to wish for.

    `short`: bytes that are lacking, by place. `problem`: why it can't be done here at all. `rooms`: of weights on each of several devices.
    `frameworks`: those that it takes, by their names in configs/frameworks.json.
    """

    way: Way
    footprint: Footprint
    speed: Estimate
    short: Mapping[str, int] = field(default_factory=dict)
    problem: str | None = None
    rooms: Mapping[str, int] | None = None
    frameworks: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether it can be done here, and there is room."""
        return self.problem is None and not self.short

    @property
    def verdict(self) -> str:
        """`fits`, or why not and by how much."""
        if self.problem is not None:
            return self.problem
        lacking = ", ".join(f"{format_bytes(nbytes)} too much for {place}" for place, nbytes in self.short.items())
        return lacking or "fits"

    @property
    def streams(self) -> bool:
        """Whether some weights are brought in anew for every token."""
        return self.way.is_streamed or self.way.offload


@dataclass(frozen=True)
class Scene:
    """The checkpoint, the machine and the use that all candidates share."""

    checkpoint: Checkpoint
    machine: Machine
    use: Use
    frameworks: Frameworks
    _sketches: dict[tuple[str, object], PlanSketch] = field(default_factory=dict)

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Of the checkpoint."""
        return parts_of(self.checkpoint)

    @cached_property
    def shapes(self) -> Shapes:
        """Of the checkpoint."""
        return shapes_of(self.checkpoint)

    @cached_property
    def later(self) -> frozenset[str]:
        """Units that are used after the widest moment: a head of its own, a seq2seq model's decoder."""
        architecture = self.checkpoint.architecture
        head, stacks = architecture.structure.head, architecture.structure.stacks
        prefixes = [f"{stack.prefix}." for stack in stacks if stack.role == "decoder"] if architecture.kind is Kind.SEQ2SEQ else []
        return frozenset(
            part.unit for part in self.parts if (head is not None and part.name == head.name) or part.name.startswith(tuple(prefixes))
        )

    @cached_property
    def embedding(self) -> str | None:
        """The unit of the embedding."""
        found = self.checkpoint.architecture.structure.embedding
        return next((part.unit for part in self.parts if found is not None and part.name == found.name), None)

    @cached_property
    def looked_up(self) -> str | None:
        """The same where rows are looked up and nothing else: no head is tied to it."""
        return None if self.checkpoint.architecture.structure.head is None else self.embedding

    @cached_property
    def active_share(self) -> float:
        """Of the weights, those that a token meets."""
        routed = sum(part.numel for part in self.parts if part.is_routed)
        shapes, whole = self.shapes, sum(part.numel for part in self.parts) or 1
        return 1 - routed * (1 - shapes.experts_per_token / shapes.experts) / whole if shapes.experts_per_token and shapes.experts else 1.0

    def plan(self, precision: Precision) -> PlanSketch:
        """The plan in a precision, made once."""
        key = (precision.dtype, precision.quantization)
        if key not in self._sketches:
            self._sketches[key] = sketch(self.parts, precision.dtype, precision.quantization)
        return self._sketches[key]

    @property
    def host_bytes(self) -> int | None:
        """What the host has for this; None where that was not told."""
        return int(self.machine.hardware.free_bytes / (1 + MARGIN)) if self.machine.host_is_known else None

    def device_bytes(self, device: str) -> int:
        """What a device has for this."""
        hardware = self.machine.hardware
        found = hardware.mps if device == "mps" else hardware.cuda[int(device.partition(":")[2])]
        return int((found.free_bytes if found else 0) / (1 + MARGIN))


def candidates(scene: Scene) -> Iterator[Candidate]:
    """All of them, in no order that means anything."""
    for backend in (Backend.CUDA, Backend.MPS, Backend.CPU):
        for precision in precisions(scene.checkpoint, backend, scene.machine.hardware):
            for way in _ways(scene, backend, precision):
                yield from _judged(scene, way, precision)


def _ways(scene: Scene, backend: Backend, precision: Precision) -> Iterator[Way]:
    """The strategies that there are for a backend; quantized weights, and files that are read in one go, can't be streamed."""
    devices = _devices(scene.machine, backend)
    if not devices:
        return
    best = max(devices, key=scene.device_bytes) if backend is Backend.CUDA else devices[0]
    plain = Way(backend, (best,), precision.dtype, BACKENDS[backend].strategy(), precision.quantization, loss=precision.loss)
    yield plain
    if len(devices) > 1:
        yield replace(plain, devices=devices)
    if backend is not Backend.MPS:
        yield replace(plain, strategy=LoadingStrategy.LOW_MEMORY)
    if precision.quantization is None and scene.checkpoint.quantization is None:
        plan = scene.plan(precision)
        sizes = sorted((unit.target_bytes for unit in plan.units), reverse=True)
        streamed = replace(plain, strategy=LoadingStrategy.STREAMING, resident=sizes[0] if sizes else 0)
        yield streamed
        if backend is Backend.CUDA:
            yield replace(streamed, resident=sum(sizes[:2]), offload=True)
        if (most := _most_resident(scene, streamed, plan)) is not None:
            yield replace(streamed, resident=most)


def _devices(machine: Machine, backend: Backend) -> tuple[str, ...]:
    if backend is Backend.CPU:
        return ("cpu",)
    if backend is Backend.CUDA:
        return tuple(f"cuda:{index}" for index in range(len(machine.hardware.cuda)))
    return ("mps",) if machine.hardware.mps else ()


def _most_resident(scene: Scene, least: Way, plan: PlanSketch) -> int | None:
    """The most that streaming can keep where the least leaves something over; None where it leaves nothing, or room for all."""
    taken = footprint_of(scene, least, plan)
    if taken is None or least.resident is None:
        return None
    place = least.devices[0]
    if least.on_device:
        room = scene.device_bytes(place) - taken.peak.get(place, 0)
    else:
        room = (_BOUNDLESS if scene.host_bytes is None else scene.host_bytes) - taken.host
    most = least.resident + room
    return most if least.resident < most < plan.target_bytes else None


def _judged(scene: Scene, way: Way, precision: Precision) -> Iterator[Candidate]:
    plan = scene.plan(precision)
    rooms = _rooms(scene, way, plan) if len(way.devices) > 1 else None
    problem = precision.problem
    if rooms is not None and problem is None and find_spec("accelerate") is None:
        problem = "needs accelerate"
    taken = footprint_of(scene, way, plan, rooms)
    if taken is None and rooms is not None:  # as if the last device had room for the rest: what it lacks is told
        taken = footprint_of(scene, way, plan, rooms | {list(rooms)[-1]: _BOUNDLESS})
    if taken is None:
        return
    speed = seconds_a_token(
        way,
        plan,
        active_share=scene.active_share,
        disk_rate=scene.machine.disk.read_rate if scene.machine.disk else None,
        host_bytes=scene.host_bytes,
    )
    frameworks = tuple(scene.frameworks.needed(way, plan))
    yield Candidate(way, taken, speed, _short(scene, way, taken), problem, rooms, frameworks)


def footprint_of(scene: Scene, way: Way, plan: PlanSketch, rooms: Mapping[str, int] | None = None) -> Footprint | None:
    """What a way takes on the machine of `scene`; None where the model does not fit in the `rooms` of several devices."""
    rules = BACKENDS[way.backend]
    workers = 1 if way.strategy in (LoadingStrategy.LOW_MEMORY, LoadingStrategy.STREAMING) else 0
    workers = workers or rules.workers(scene.machine.hardware, quantized=plan.quantized_weights > 0)
    subject = Subject(plan, scene.shapes, scene.use, scene.frameworks, scene.later, scene.looked_up, scene.embedding)
    return footprint(way, subject, workers=workers, rooms=rooms)


def _short(scene: Scene, way: Way, taken: Footprint) -> dict[str, int]:
    """What is lacking, place by place; what Apple's GPU takes is the host's, too."""
    short: dict[str, int] = {}
    devices = {place: nbytes for place, nbytes in taken.peak.items() if place not in (ANONYMOUS, MAPPED)}
    for place, nbytes in devices.items():
        if nbytes > scene.device_bytes(place):
            short[place] = nbytes - scene.device_bytes(place)
    on_host = taken.host + (sum(devices.values()) if way.backend is Backend.MPS else 0)
    if scene.host_bytes is not None and on_host > scene.host_bytes:
        short[HOST] = on_host - scene.host_bytes
    return short


def _rooms(scene: Scene, way: Way, plan: PlanSketch) -> dict[str, int]:
    """Bytes of weights for each device: what is left of it beside all else, of which the cache goes with the layers."""
    alone = footprint_of(scene, replace(way, devices=way.devices[:1]), plan)
    if alone is None:
        return {}
    first = way.devices[0]
    beside = alone.peak.get(first, 0) - alone.component("weights").get(first, 0) - alone.component("kv cache").get(first, 0)
    cached = alone.component("kv cache").get(first, 0)
    with_cache = 1 + cached / (plan.target_bytes or 1)  # bytes that come with each byte of weights
    rooms: dict[str, int] = {}
    for device in way.devices:
        left = scene.device_bytes(device) - beside - alone.component("loading").get(first, 0)
        rooms[device] = max(0, int(left / with_cache))
    return rooms
