"""The memory that a way to load takes, component by component, while it is loaded and while it computes.

Weights and what loading them takes are `memory.predict`'s numbers, which `mlload load --dry-run` shows, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from ..devices import spread
from ..dtypes import BITS, TORCH_NAMES
from ..memory import Memory, Prediction, predict, predict_streamed
from ..text import format_bytes
from .activations import logits, widest
from .component import ANONYMOUS, MAPPED, Bytes, Component, highest, on_host, total
from .frameworks import Frameworks
from .shapes import Shapes
from .sketch import PlanSketch
from .use import Use
from .way import Way

_PREDICT = "loader/memory.py, as `mlload load --dry-run`"
_QUANTIZED_CACHE_GROUP, _QUANTIZED_CACHE_TAIL = 64, 128  # of transformers' QuantizedCache: scales, and tokens that are left as they are


@dataclass(frozen=True)
class Footprint:
    """`components` in the table's order. `together`: the most of weights that are in the host's memory at once, of both kinds."""

    components: tuple[Component, ...]
    unit_devices: Mapping[str, str] | None = None
    resident: int | None = None

    def component(self, name: str) -> Bytes:
        """The bytes of one, none where there is no such."""
        return next((each.nbytes for each in self.components if each.name == name), {})

    @cached_property
    def loading(self) -> Bytes:
        """At the highest while it is loaded."""
        return total(self.component(name) for name in ("framework", "weights", "loading"))

    @cached_property
    def computing(self) -> Bytes:
        """At the highest while it computes; a streamed model is loaded meanwhile."""
        streamed = ("loading",) if self.resident is not None else ()
        kept = total(self.component(name) for name in ("framework", "weights", "kv cache", "scratch", *streamed))
        return total((kept, highest((self.component("activations"), self.component("logits")))))

    @cached_property
    def peak(self) -> Bytes:
        """The most, place by place."""
        return highest((self.loading, self.computing))

    @cached_property
    def host(self) -> int:
        """The most of the host's memory at once."""
        both = (on_host(self.loading), on_host(self.computing))
        weights = on_host(self.component("weights"))
        spared = 0 if self.resident is None else max(0, weights - self.resident)  # pages and what is made share one budget
        return max(both) - spared

    @cached_property
    def nbytes(self) -> int:
        """Of all places together."""
        return self.host + sum(nbytes for place, nbytes in self.peak.items() if place not in (ANONYMOUS, MAPPED))


@dataclass(frozen=True)
class Subject:
    """What is loaded, and for which use."""

    plan: PlanSketch
    shapes: Shapes
    use: Use
    frameworks: Frameworks


def footprint(way: Way, subject: Subject, *, workers: int, rooms: Mapping[str, int] | None = None) -> Footprint | None:
    """What `way` takes; None where the model does not fit in the `rooms` of several devices."""
    resident = way.resident if way.is_streamed else None
    if way.is_streamed:
        prediction = predict_streamed(subject.plan, on_device=way.on_device, mapped=True, resident=resident)
    else:
        prediction = predict(subject.plan, on_device=way.on_device, mapped=True, workers=workers)
    units = None
    if len(way.devices) > 1:
        units = spread([(unit.name, unit.target_bytes) for unit in subject.plan.units], rooms or {})
        if units is None:
            return None
    places = _Places(way, subject.plan, units)
    components = (
        _framework(way, subject, places),
        _weights(way, subject, prediction, places),
        _loading(prediction, places),
        _cache(way, subject, places),
        _activations(way, subject, places),
        _logits(way, subject, places),
        _scratch(way, subject, places),
    )
    return Footprint(components, units, resident)


@dataclass(frozen=True)
class _Places:
    """Where bytes go: to the host, to one device, or to several."""

    way: Way
    plan: PlanSketch
    units: Mapping[str, str] | None

    def of(self, memory: Memory) -> Bytes:
        """A prediction's bytes, those of a device on the first one."""
        found = {ANONYMOUS: memory.anonymous, MAPPED: memory.mapped, self.way.devices[0]: memory.device}
        return {place: nbytes for place, nbytes in found.items() if nbytes}

    def computing(self, nbytes: int) -> Bytes:
        """Bytes that are wherever something computes: the same on each device."""
        return dict.fromkeys(self.way.devices, nbytes) if self.way.on_device else {ANONYMOUS: nbytes}

    def last(self, nbytes: int) -> Bytes:
        """Bytes on the device of the last unit."""
        return {self.way.devices[-1]: nbytes} if self.way.on_device else {ANONYMOUS: nbytes}

    def shared_out(self, nbytes: int) -> Bytes:
        """Bytes that lie with the layers."""
        if self.units is None:
            return self.computing(nbytes)
        whole = self.plan.target_bytes or 1
        return {device: nbytes * size // whole for device, size in self.weights().items()}

    def weights(self) -> dict[str, int]:
        """Of each of several devices."""
        sizes = dict.fromkeys(self.way.devices, 0)
        for unit in self.plan.units:
            sizes[(self.units or {}).get(unit.name, self.way.devices[0])] += unit.target_bytes
        return sizes


def _framework(way: Way, subject: Subject, places: _Places) -> Component:
    names = subject.frameworks.needed(way, subject.plan.quantized_weights)
    host = {
        ANONYMOUS: sum(subject.frameworks.bytes_of(name).anonymous for name in names),
        MAPPED: sum(subject.frameworks.bytes_of(name).mapped for name in names),
    }
    device = sum(subject.frameworks.bytes_of(name).device for name in names)
    arithmetic = " + ".join(f"{subject.frameworks.what(name)} {format_bytes(subject.frameworks.bytes_of(name).anonymous)}" for name in names)
    return Component("framework", total((host, places.computing(device) if device else {})), arithmetic, subject.frameworks.source)


def _weights(way: Way, subject: Subject, prediction: Prediction, places: _Places) -> Component:
    nbytes = places.weights() if places.units is not None else dict(places.of(prediction.loaded))
    text = f"{format_bytes(subject.plan.source_bytes)} stored, {format_bytes(subject.plan.target_bytes)} in {way.precision}"
    if way.resident is not None and way.is_streamed:
        text += f", at most {format_bytes(way.resident)} at once"
    return Component("weights", nbytes, text, f"headers, {_PREDICT}")


def _loading(prediction: Prediction, places: _Places) -> Component:
    memory = prediction.peak - prediction.loaded
    nbytes = places.computing(memory.device) if places.units is not None else places.of(memory)
    return Component("loading", nbytes, "the largest tensors in flight, beside what they become", _PREDICT)


def _cache(way: Way, subject: Subject, places: _Places) -> Component:
    cache, use = subject.shapes.kv_cache, subject.use
    if cache is None:
        return Component("kv cache", {}, "none: the model does not go on from its tokens", "config.json")
    width = BITS[TORCH_NAMES[way.dtype]] // 8
    token = cache.bytes_per_token * 8 // BITS[cache.dtype] * width
    whole = token * use.context * use.batch
    text = f"{use.batch} x {use.context:,} tokens x {token:,} B"
    if use.cache_bits is not None:
        share = (use.cache_bits + 2 * 8 * width / _QUANTIZED_CACHE_GROUP) / (8 * width)
        tail = token * min(use.context, _QUANTIZED_CACHE_TAIL) * use.batch
        whole, text = int((whole - tail) * share) + tail, f"{text} x {share:.3f} in {use.cache_bits} bits, the last tokens as they are"
    if cache.window is not None and use.context > cache.window:
        text += f" (layers of a window of {cache.window:,} let the prompt go with the next token)"
    return Component("kv cache", places.shared_out(whole), text, "config.json and projections' rows, loader/architecture/kv_cache.py")


def _activations(way: Way, subject: Subject, places: _Places) -> Component:
    moment = widest(subject.shapes, subject.use, BITS[TORCH_NAMES[way.dtype]] // 8)
    return Component("activations", places.computing(moment.nbytes), f"{moment.name}: {moment.arithmetic}", "loader/recommend/activations.py")


def _logits(way: Way, subject: Subject, places: _Places) -> Component:
    moment = logits(subject.shapes, subject.use, BITS[TORCH_NAMES[way.dtype]] // 8)
    return Component("logits", places.last(moment.nbytes), moment.arithmetic, "loader/recommend/activations.py")


def _scratch(way: Way, subject: Subject, places: _Places) -> Component:
    """What kernels take for a matrix: a quantized one is unpacked, and on a CPU one in bfloat16 is laid out anew for each product."""
    width = BITS[TORCH_NAMES[way.dtype]] // 8
    largest = max((step.quantized_weights for step in subject.plan.steps), default=0)
    if largest:
        return Component("scratch", places.computing(largest * width), f"{largest:,} weights unpacked x {width} B", "measured")
    return Component("scratch", {}, "none", "")
