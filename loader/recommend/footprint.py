"""The memory that a way to load takes, component by component, while it is loaded and while it computes.

Weights and what loading them takes are `memory.predict`'s numbers, which `mlload load --dry-run` shows, too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

from ..architecture import Kind
from ..devices import spread
from ..dtypes import BITS, TORCH_NAMES
from ..memory import Memory, Prediction, predict, predict_streamed, staged_bytes
from ..settings import Backend, QuantizationMethod
from ..text import format_bytes
from .activations import kernels, logits, widest
from .component import ANONYMOUS, MAPPED, Bytes, Component, highest, on_host, total
from .frameworks import Frameworks
from .shapes import Shapes
from .sketch import PlanSketch
from .use import Use
from .way import Way

_PREDICT = "loader/memory.py, as `mlload load --dry-run`"
_TOUCHED = 1 << 20  # bytes of an embedding's pages that come with one row at most: the kernel maps what is beside it, as it was read
_QUANTIZED_CACHE_GROUP, _QUANTIZED_CACHE_TAIL = 64, 128  # of transformers' QuantizedCache: scales, and tokens that are left as they are


@dataclass(frozen=True)
class Footprint:
    """`components` in the table's order.

    `at_once`: the most of the host's memory that loading takes beside the framework. `later_pages`: of files, which are used only after
    the widest moment; `unused_pages`: of an embedding, which no token touches. `cache_comes_after`: the activations. `first_pages`: what is
    read and given back of an embedding that is streamed, over what is so of a layer.
    """

    components: tuple[Component, ...]
    at_once: int
    later_pages: int = 0
    unused_pages: int = 0
    resident: int | None = None
    cache_comes_after: bool = False
    first_pages: int = 0

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
        kept = [self.component(name) for name in ("framework", "forward", "weights", "kernels")]
        if self.resident is not None:
            kept.append(self.component("loading"))
        return total((*kept, highest((self.in_layers, self.in_head))))

    @property
    def in_layers(self) -> Bytes:
        """What comes with the layers: a seq2seq model's keys and values are made of what its encoder gave."""
        names = ("activations", "scratch") if self.cache_comes_after else ("activations", "scratch", "kv cache")
        return total(self.component(name) for name in names)

    @property
    def in_head(self) -> Bytes:
        """What comes with the head."""
        return total((self.component("logits"), self.component("kv cache")))

    @cached_property
    def peak(self) -> Bytes:
        """The most, place by place."""
        return highest((self.loading, self.computing))

    @cached_property
    def host(self) -> int:
        """The most of the host's memory at once: what is mapped, and what is made, need not be there at the same moment."""
        loading = on_host(self.component("framework")) + self.at_once - (0 if self.resident is None else self.unused_pages)
        in_layers, in_head = on_host(self.in_layers), on_host(self.in_head)
        kept = on_host(self.computing) - max(in_layers, in_head) - self.unused_pages
        if self.resident is not None:  # pages and what is made share one budget
            kept -= max(0, on_host(self.component("weights")) - self.resident) + self.first_pages
        return max(loading, kept + max(in_layers - self.later_pages, in_head))

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
    later: Collection[str] = ()  # units that are used after the widest moment: the head, a seq2seq model's decoder
    looked_up: str | None = None  # the unit of an embedding that nothing else is done with
    embedding: str | None = None  # that of any


def footprint(way: Way, subject: Subject, *, workers: int, rooms: Mapping[str, int] | None = None) -> Footprint | None:
    """What `way` takes; None where the model does not fit in the `rooms` of several devices."""
    resident = way.resident if way.is_streamed else None
    staged = staged_bytes(workers) if way.backend is Backend.CUDA else 0
    if way.is_streamed:
        prediction = predict_streamed(subject.plan, on_device=way.on_device, mapped=True, resident=resident, staged=staged)
    else:
        prediction = predict(
            subject.plan,
            on_device=way.on_device,
            mapped=True,
            workers=workers,
            staged=staged,
            can_be_prepared=True,
        )
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
        _forward(subject),
        _cache(way, subject, places),
        _activations(way, subject, places),
        _logits(way, subject, places),
        _scratch(way, subject, places),
        _kernels(way, subject),
    )
    whole = not way.on_device and resident is None
    later = _pages(subject.plan, subject.later) if whole else 0
    looked_up = 0 if way.on_device or subject.looked_up is None else _pages(subject.plan, (subject.looked_up,))
    if resident is not None:  # what is left of the budget keeps the embedding: it is the first that is used again
        largest = max((unit.target_bytes for unit in subject.plan.units if unit.name != subject.looked_up), default=0)
        looked_up = min(looked_up, max(0, resident - largest))
    unused = max(0, looked_up - subject.use.tokens * _TOUCHED)
    after = subject.shapes.kind is Kind.SEQ2SEQ
    return Footprint(components, prediction.at_once, later, unused, resident, after, _first_pages(way, subject))


def _first_pages(way: Way, subject: Subject) -> int:
    """By how much reading the embedding takes more than any other unit: its pages are given back before anything is computed with it."""
    if not way.is_streamed or way.backend is Backend.CUDA:
        return 0
    passing = {unit.name: sum(step.passing_bytes for step in unit.steps) for unit in subject.plan.units}
    first = passing.pop(subject.embedding, 0) if subject.embedding else 0
    return max(0, first - max(passing.values(), default=0))


def _pages(plan: PlanSketch, names: Collection[str]) -> int:
    """Bytes of these units that are pages of files."""
    return sum(step.target_bytes for unit in plan.units if unit.name in names for step in unit.steps if step.is_view)


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
    names = subject.frameworks.needed(way, subject.plan)
    host = {
        ANONYMOUS: sum(subject.frameworks.bytes_of(name).anonymous for name in names),
        MAPPED: sum(subject.frameworks.bytes_of(name).mapped for name in names),
    }
    device = sum(subject.frameworks.bytes_of(name).device for name in names)
    arithmetic = " + ".join(
        f"{subject.frameworks.what(name)} {format_bytes(subject.frameworks.bytes_of(name).anonymous)}" for name in names
    )
    return Component(
        "framework", total((host, places.computing(device) if device else {})), arithmetic, subject.frameworks.source_of(names)
    )


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
    return Component(
        "activations", places.computing(moment.nbytes), f"{moment.name}: {moment.arithmetic}", "loader/recommend/activations.py"
    )


def _logits(way: Way, subject: Subject, places: _Places) -> Component:
    moment = logits(subject.shapes, subject.use, BITS[TORCH_NAMES[way.dtype]] // 8)
    return Component("logits", places.last(moment.nbytes), moment.arithmetic, "loader/recommend/activations.py")


def _forward(subject: Subject) -> Component:
    memory = subject.frameworks.bytes_of("forward")
    return Component(
        "forward",
        {ANONYMOUS: memory.anonymous, MAPPED: memory.mapped},
        subject.frameworks.what("forward"),
        subject.frameworks.source_of(["forward"]),
    )


def _kernels(way: Way, subject: Subject) -> Component:
    """On a device they are part of the framework."""
    moment = kernels(subject.shapes, subject.use, way.dtype)
    if way.on_device:
        return Component("kernels", {}, "in the framework", "")
    return Component("kernels", {ANONYMOUS: moment.nbytes}, moment.arithmetic, "measured, loader/recommend/activations.py")


def _scratch(way: Way, subject: Subject, places: _Places) -> Component:
    """What a product with a quantized matrix takes: it is unpacked; or, of int8 on a CPU, what comes of whole numbers is made floats."""
    largest = max((step.quantized_weights for step in subject.plan.steps), default=0)
    if not largest or way.quantization is None:
        return Component("scratch", {}, "none", "")
    if way.quantization.method is QuantizationMethod.BNB_INT8 and not way.on_device:
        tokens, inner = subject.use.tokens, subject.shapes.inner
        return Component("scratch", places.computing(tokens * inner * 12), f"{tokens:,} tokens x {inner:,} x 12 B", "measured")
    width = BITS[TORCH_NAMES[way.dtype]] // 8
    return Component("scratch", places.computing(largest * width), f"{largest:,} weights unpacked x {width} B", "measured")
