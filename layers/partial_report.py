"""What running part of a model did, as plain data for tables and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from .inputs import prompts_in
from .layered import LayeredModel
from .lens import LensLine
from .partial import PartialForward
from .state import ForwardState
from .top_tokens import TopTokens

SCHEMA = "mlload.partial-forward/1"


@dataclass(frozen=True, slots=True)
class Position:
    """Where a forward stands: the next layer of a stack, and the shape and dtype of the hidden states that it takes up."""

    stack: str
    layer: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Streamed:
    """What was read of the weights: units (one may be read again) and bytes, and the most bytes of units that were in memory together."""

    units_read: int
    units: int
    bytes_read: int
    peak_resident_bytes: int


@dataclass(frozen=True)
class PartialReport:
    """Layers `first` to `last` (exclusive) of `stack` that were run, where that led, and what the model says if it was its end."""

    reference: str
    class_name: str
    dtype: str
    device: str
    stack: str
    num_layers: int
    first: int
    last: int
    state: Position | None
    texts: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]
    streamed: Streamed | None
    seconds: dict[str, float]
    top: tuple[TopTokens, ...] = ()
    lens: tuple[LensLine, ...] = ()
    generated: tuple[str, ...] = ()
    generated_tokens: tuple[tuple[int, ...], ...] = ()
    output: str | None = None
    hidden_output: str | None = None
    plot: str | None = None

    def to_json(self) -> dict[str, object]:
        """One object of plain values."""
        seconds = {name: round(value, 4) for name, value in self.seconds.items()}
        return {"schema": SCHEMA, **asdict(self), "seconds": seconds}


def partial_report(
    model: LayeredModel, part: PartialForward, *, top: tuple[TopTokens, ...] = (), lens: tuple[LensLine, ...] = ()
) -> PartialReport:
    """What came of `part`."""
    report = _report(model, part.inputs, part.texts)
    state = None if part.state is None else _position(part.state)
    ran = replace(report, stack=part.stack, num_layers=part.num_layers, first=part.first, last=part.last)
    return replace(ran, state=state, top=top, lens=lens)


def generation_report(model: LayeredModel, inputs: Mapping[str, Any], texts: tuple[str, ...], made: Tensor) -> PartialReport:
    """What the whole model went on with: `made` holds a row of tokens for each prompt."""
    rows = made.tolist()
    decoded = tuple(model.loaded.tokenizer.batch_decode(rows, skip_special_tokens=True)) if texts else ()
    return replace(_report(model, inputs, texts), generated=decoded, generated_tokens=tuple(map(tuple, rows)))


def _report(model: LayeredModel, inputs: Mapping[str, Any], texts: tuple[str, ...]) -> PartialReport:
    """What is told of every run; of the layers as if all of them were run."""
    main = model.main
    return PartialReport(
        reference=model.loaded.reference,
        class_name=type(model.model).__name__,
        dtype=_name(model.model.dtype),
        device=str(model.model.device),
        stack=main.name,
        num_layers=len(main.layers),
        first=0,
        last=len(main.layers),
        state=None,
        texts=texts,
        tokens=tuple(map(tuple, prompts_in(inputs).tolist())),
        streamed=_streamed(model),
        seconds=model.loaded.seconds,
    )


def _position(state: ForwardState) -> Position:
    hidden = state.hidden_states
    return Position(state.stack, state.layer, tuple(hidden.shape), _name(hidden.dtype))


def _streamed(model: LayeredModel) -> Streamed | None:
    streamer = model.loaded.streamer
    if streamer is None:
        return None
    counters = streamer.counters
    return Streamed(counters.loads, len(streamer.units), counters.bytes_read, counters.peak_resident_bytes)


def _name(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")
