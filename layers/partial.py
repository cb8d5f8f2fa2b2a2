"""Part of a model's forward: some layers of a stack, from prompts or from where an earlier part stopped."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..loader.errors import UsageError
from ..loader.execution.model_class import refusals
from ..loader.settings import ModelLoadingConfig
from ..loader.text import printable
from .inputs import inputs_of_texts
from .layered import LayeredModel
from .passage import Outcome
from .stacks import LayerStack
from .state import ForwardState

if TYPE_CHECKING:
    from transformers import Cache

Model = str | PathLike[str] | ModelLoadingConfig | LayeredModel

_RANGE = re.compile(r"\s*(\d{1,9})?\s*:\s*(\d{1,9})?\s*")


@dataclass(frozen=True)
class PartialForward:
    """What came of running layers `first` to `last` (exclusive) of a stack that has `num_layers`.

    `state` is where it stopped, None where it went on to the end of the model, whose `logits` there are then, and its `past_key_values`
    where the inputs asked for a cache. `hidden_states` maps the number of each layer to what entered it, and the number of layers to what
    left the last one; empty unless asked for.
    """

    stack: str
    first: int
    last: int
    num_layers: int
    inputs: Mapping[str, Any]
    texts: tuple[str, ...]
    state: ForwardState | None
    logits: Tensor | None
    past_key_values: Cache | None
    hidden_states: Mapping[int, Tensor]


def partial_forward(
    model: Model,
    texts: str | Sequence[str] | None = None,
    *,
    inputs: Mapping[str, Any] | None = None,
    state: ForwardState | str | PathLike[str] | None = None,
    layers: str | slice = ":",
    stack: str | None = None,
    head: bool = False,
    hidden_states: bool = False,
    last_logits: bool = False,
    use_cache: bool = False,
    times: Mapping[int, int] | None = None,
) -> PartialForward:
    """Run `layers` (`"0:8"`, `"8:"` or a slice) of the main stack, or of `stack`, on prompts, on a model's inputs, or on from a state.

    Without an end the main stack is run to its end and the model with it: final norm, head, logits; any other stack is run to its end.
    With one it stops there, unless `head` asks for the rest of the model as well. `times` says how often layers are run that are not run
    once: 0 hands on what comes in, 2 runs a layer twice. With `last_logits` a model that can does without those of all tokens but the
    last. With `use_cache` keys and values of the layers are kept, in the state too, from which they are taken up again. Raises UsageError
    for layers that can't be run from what is given, a state of another model, and a cache of one that has none.
    """
    opened = LayeredModel.open(model)
    if [texts, inputs, state].count(None) != 2:
        raise UsageError("there must be one thing to begin with: texts, inputs of the model, or a state")
    prompts = (texts,) if isinstance(texts, str) else tuple(texts or ())
    origin = "the state" if state is None or isinstance(state, ForwardState) else fspath(state)
    if state is not None:
        state = state if isinstance(state, ForwardState) else ForwardState.load(state)
        state.model.check(opened.identity)
        inputs, prompts = state.inputs, state.texts
    part = _Part.of(opened, layers, stack, state, head=head)
    given = inputs_of_texts(opened.loaded, prompts) if inputs is None else inputs
    if use_cache:
        given = _with_cache(given, state)
    kept: dict[int, Tensor] = {}
    with refusals("the rest of a forward", file=Path(origin).name, hint="make the state anew") if state else nullcontext():
        outcome = opened.run(
            opened.for_last_token(given) if last_logits and part.last is None else given,
            start=None if state is None else state.boundary,
            stop=part.stop,
            times=part.times(times or {}),
            watch=(part.stack.name, kept.__setitem__) if hidden_states else None,
        )
    return _result(opened, part, outcome, given, prompts, kept)


def _with_cache(inputs: Mapping[str, Any], state: ForwardState | None) -> Mapping[str, Any]:
    """The inputs, asking for a cache."""
    if state is not None:
        raise UsageError("a state goes on with the cache that it holds, if it holds one", hint="ask for the cache where the forward begins")
    if "use_cache" not in inputs:
        raise UsageError("the model keeps no keys and values")
    return {**inputs, "use_cache": True}


@dataclass(frozen=True)
class _Part:
    """The layers that are to be run. `last` is None where the model is to be run to its end."""

    stack: LayerStack
    first: int
    last: int | None

    @classmethod
    def of(cls, model: LayeredModel, layers: str | slice, asked: str | None, state: ForwardState | None, *, head: bool) -> _Part:
        """What is asked, as far as it can be done from `state`. Raises UsageError where it can't."""
        stack = _stack(model, asked, state)
        there = 0 if state is None else len(state.boundary.outputs.get(stack.name, ()))
        num_layers = len(stack.layers)
        first, last = _bounds(layers)
        first = there if first is None else first
        if last is None and stack is not model.main and not head:
            last = num_layers
        for bound in (first, first if last is None else last):
            if bound > model.most_layers(stack):
                raise UsageError(f"there is no layer {bound}: {printable(stack.name)} has {num_layers}", hint="layers are counted from 0")
        if first != there:
            known = "nothing is known of the layers before" if state is None else f"the state comes before layer {there}"
            raise UsageError(f"layers can't begin at {first} of {printable(stack.name)}: {known}", hint=f"begin at {there}")
        if last is not None and (last < first or (head and last < num_layers)):
            what = "the head comes after the last layer" if head else "a range of layers goes up"
            raise UsageError(f"layers {first}:{last} of {num_layers}: {what}", hint=f"for example {first}:{num_layers}")
        return cls(stack, first, None if head else last)

    @property
    def stop(self) -> tuple[str, int] | None:
        """Where to stop."""
        return None if self.last is None else (self.stack.name, self.last)

    def times(self, asked: Mapping[int, int]) -> Mapping[tuple[str, int], int]:
        """How often layers are run. Raises UsageError for a layer that is not run at all."""
        last = len(self.stack.layers) if self.last is None else self.last
        for layer in asked:
            if not self.first <= layer < last:
                raise UsageError(f"layer {layer} is not among those that are run", hint=f"they are {self.first} to {last - 1}")
        return {(self.stack.name, layer): count for layer, count in asked.items()}


def _stack(model: LayeredModel, asked: str | None, state: ForwardState | None) -> LayerStack:
    """The stack that is asked for, else the one that the state is in the middle of, else the main one."""
    if asked is None and state is not None and state.stack in model.stacks:
        begun = model.stacks[state.stack]
        return begun if state.layer < len(begun.layers) else model.main
    return model.stack(asked)


def _bounds(layers: str | slice) -> tuple[int | None, int | None]:
    """First and last (exclusive) layer of a range, None for an open one."""
    if isinstance(layers, slice):
        layers = ":".join("" if bound is None else str(bound) for bound in (layers.start, layers.stop))
    found = _RANGE.fullmatch(layers)
    if found is None:
        raise UsageError(f"'{printable(layers, limit=40)}' is no range of layers", hint="write 0:8, 8: or :")
    first, last = (None if bound is None else int(bound) for bound in found.groups())
    return first, last


def _result(
    model: LayeredModel, part: _Part, outcome: Outcome, inputs: Mapping[str, Any], texts: tuple[str, ...], kept: Mapping[int, Tensor]
) -> PartialForward:
    reached = outcome.boundary
    if part.last is not None and reached is None:
        message = f"layer {part.last} was not come to: the model goes through {outcome.calls[part.stack.name]} layers of {part.stack.name}"
        raise UsageError(message, hint="some inputs leave layers out")
    return PartialForward(
        stack=part.stack.name,
        first=part.first,
        last=outcome.calls[part.stack.name] if reached is None else reached.call,
        num_layers=len(part.stack.layers),
        inputs=inputs,
        texts=texts,
        state=None if reached is None else ForwardState(reached, model.identity, texts),
        logits=outcome.result,
        past_key_values=outcome.past_key_values,
        hidden_states=kept,
    )
