"""A model's own forward, begun or stopped between two of its layers.

Nothing is computed here. The model runs as it always does; only what it calls a layer is answered from what is known of an earlier
run, computed, or made the place to stop. So masks, positions, caches and what the model does between its layers are always its own.
"""

from __future__ import annotations

import copy
import inspect
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from ..loader.errors import UsageError
from .hidden import Arguments, hidden_in, hidden_of, with_hidden, with_hidden_in
from .nested import Gone, Held, caches_in, empty_cache, rebuilt, restored, tensors_in, twin
from .stacks import LayerStack

_SEED = 0  # of models that draw random numbers while they compute (hashing attentions)


@dataclass(frozen=True)
class Entry:
    """What a layer is given, by the names of its parameters: what was given by position, and what by name."""

    positional: Mapping[str, Any]
    named: Mapping[str, Any]

    @property
    def arguments(self) -> Arguments:
        """The arguments for a call."""
        return tuple(self.positional.values()), dict(self.named)


@dataclass(frozen=True)
class Boundary:
    """A place between two layers, and all that the rest of a forward depends on.

    It lies before that `call` of a layer of `stack`; call and layer have one number, but in models that go through layers again.
    `inputs` are the model's own. `outputs` are what each stack's calls so far gave, with `Gone` in the place of every tensor that nothing
    in the model held any more. `entry` is what the next call was given; where the stack `is_ended`, what caches the last one was given
    hold since. `random` is the state of torch's random numbers, where the model had drawn some.
    """

    stack: str
    call: int
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Sequence[Any]]
    entry: Entry
    is_ended: bool
    random: Tensor | None

    @property
    def hidden_states(self) -> Tensor:
        """What comes out of the last layer that was gone through, or, before the first one, out of the embedding."""
        return hidden_of(self.outputs[self.stack][-1]) if self.is_ended else hidden_in(*self.entry.arguments)


@dataclass(frozen=True)
class Outcome:
    """How a run ended: at a boundary, or with what the model makes of it all, as a rule logits, and with its cache if it has one.

    `calls` counts those of each stack's layers, answered ones included.
    """

    boundary: Boundary | None
    result: Tensor | None
    past_key_values: Cache | None
    calls: Mapping[str, int]


class _Stop(BaseException):
    """Leaves a model's forward; no handler of errors in it takes this for one."""


class _Trace:
    """One tensor that a layer gave: as it was then, and whether anything still holds it."""

    def __init__(self, tensor: Tensor) -> None:
        self._given = weakref.ref(tensor)
        self._held: Tensor | None = tensor
        self._version = tensor._version
        self._copy: Tensor | None = tensor.clone()
        self._gone = Gone(tuple(tensor.shape), tensor.dtype)

    def hold(self) -> None:
        self._held = self._given()

    def let_go(self) -> None:
        self._held = None
        if self._given() is None:
            self._copy = None

    def kept(self) -> Tensor | Gone:
        given = self._given()
        if given is None or self._copy is None:
            return self._gone
        return given if given._version == self._version else self._copy  # which the model has changed since


@dataclass
class _Calls:
    """The calls of one stack's layers so far, with a _Trace in the place of each tensor that they gave."""

    outputs: list[Any] = field(default_factory=list)

    def add(self, output: Any) -> None:
        self.outputs.append(rebuilt(output, _Trace, Tensor))
        self._each(_Trace.hold)  # once the stack is done they may be used yet; its next call will show what was not

    def let_go(self) -> None:
        self._each(_Trace.let_go)

    def kept(self) -> list[Any]:
        return [rebuilt(output, _Trace.kept, _Trace) for output in self.outputs]

    def _each(self, action: Callable[[_Trace], None]) -> None:
        for output in self.outputs:
            rebuilt(output, action, _Trace)


class Passage:
    """One run of a model's forward, from its beginning or from `start`, to its end or to the call `stop` of a stack.

    `times` says of calls that are not made once how often they are: twice, or not at all, so that they hand on what came in. `watch`
    is a stack, and what hears of the hidden state that enters each call that is made of its layers, and of the one that leaves the last.
    `instead` are other modules that are called in the place of layers. With `keeps_caches` false the caches of `start` are used up: what
    they hold is handed over without a copy.
    """

    def __init__(
        self,
        stacks: Mapping[str, LayerStack],
        *,
        start: Boundary | None = None,
        stop: tuple[str, int] | None = None,
        times: Mapping[tuple[str, int], int] | None = None,
        watch: tuple[str, Callable[[int, Tensor], None]] | None = None,
        instead: Mapping[tuple[str, int], nn.Module] | None = None,
        keeps_caches: bool = True,
    ) -> None:
        self._stacks = stacks
        self._start = start
        self._stop = stop
        self._times = times or {}
        self._watched, self._watch = watch or (None, None)
        self._instead = instead or {}
        self._keeps_caches = keeps_caches
        self._calls = {name: _Calls() for name in stacks}
        self._stood_in = False
        self._reached: Boundary | None = None

    @torch.no_grad()
    def run(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> Outcome:
        """Run `model` on `inputs`. Raises UsageError where it would need more of the layers before `start` than is known."""
        self._inputs = inputs
        result = cache = None
        with _intercepted(self._stacks, self._called), torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            self._unused = torch.get_rng_state()
            with suppress(_Stop):
                output = model(**{name: self._given(model, value) for name, value in inputs.items()})
                result = output["logits"] if "logits" in output else output[0]
                cache = getattr(output, "past_key_values", None)
        self._check(result)
        calls = {name: len(calls.outputs) for name, calls in self._calls.items()}
        return Outcome(self._reached, result, cache if isinstance(cache, Cache) else None, calls)

    def _given(self, model: PreTrainedModel, value: Any) -> Any:
        """An input for one forward: a cache must not be the one that a later forward is given again."""
        if isinstance(value, Held):
            return restored(empty_cache(model), rebuilt(value, Tensor.clone, Tensor))
        return copy.deepcopy(value) if isinstance(value, Cache) and self._keeps_caches else twin(value)

    def _called(self, stack: str, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """In place of a layer's forward."""
        calls = self._calls[stack]
        number = len(calls.outputs)
        calls.let_go()
        start = self._start
        if start is not None:
            known = start.outputs.get(stack, ())
            is_next = (stack, number + start.is_ended) == (start.stack, start.call)  # where it is ended: the last one before
            if is_next:
                args, kwargs = self._entered(start, args, kwargs)
            if number < len(known):
                output = self._answer(known[number], (args, kwargs))
                calls.add(output)
                return output
        if (stack, number) == self._stop:
            self._reach(stack, _entry(forward, args, kwargs), is_ended=False)
        return self._computed(stack, number, forward, args, kwargs)

    def _computed(self, stack: str, number: int, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        calls = self._calls[stack]
        watch = self._watch if stack == self._watched else None
        if watch is not None:
            watch(number, hidden_in(args, kwargs))
        module = self._instead.get((stack, number), forward)
        output = _made(module, args, kwargs, times=self._times.get((stack, number), 1))
        calls.add(output)
        number += 1
        if number == len(self._stacks[stack].layers):
            if watch is not None:
                watch(number, hidden_of(output))
            if (stack, number) == self._stop:
                entry = _entry(forward, args, kwargs)
                self._reach(stack, Entry(*caches_in((entry.positional, entry.named))), is_ended=True)
        return output

    def _answer(self, known: Any, given: Arguments) -> Any:
        device = _device(given)

        def again(tensor: Tensor | Gone) -> Tensor:
            if isinstance(tensor, Gone):
                self._stood_in = True
                return tensor.stand_in(device)
            return tensor.to(device, copy=True)

        return rebuilt(known, again)

    def _entered(self, start: Boundary, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """The arguments with which a layer was entered then, in the place of those that it is given now."""
        if start.random is not None:
            torch.set_rng_state(start.random)
        device = _device((args, kwargs))
        leaves = (Tensor, Gone) if self._keeps_caches else (Tensor, Gone, Held)
        kept = rebuilt(start.entry.arguments, lambda leaf: leaf.to(device, copy=True) if isinstance(leaf, Tensor) else leaf, leaves)
        return restored((args, kwargs), kept)

    def _reach(self, stack: str, entry: Entry, *, is_ended: bool) -> None:
        outputs = {name: calls.kept() for name, calls in self._calls.items() if calls.outputs}
        state = torch.get_rng_state()
        random = None if torch.equal(state, self._unused) else state
        self._reached = Boundary(stack, len(self._calls[stack].outputs), self._inputs, outputs, entry, is_ended, random)
        raise _Stop

    def _check(self, result: Tensor | None) -> None:
        """NaN in the result, which was nowhere in the state, comes from a stand-in: it was used."""
        if self._start is None or not self._stood_in or _has_nan((self._start.outputs, self._start.entry.arguments)):
            return
        reached = self._reached
        if _has_nan(result if reached is None else (reached.outputs, reached.entry.arguments)):
            place = f"layer {self._start.call} of {self._start.stack}"
            message = f"the model can't be gone on with at {place}: what comes later uses more of earlier layers than the state can hold"
            raise UsageError(message, hint="cut it elsewhere, or run it whole")


def _made(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, times: int) -> Any:
    output = forward(*args, **kwargs)
    if times == 0:
        return with_hidden(output, hidden_in(args, kwargs))
    for _ in range(times - 1):
        args, kwargs = with_hidden_in(args, kwargs, hidden_of(output))
        output = forward(*args, **kwargs)
    return output


def _entry(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Entry:
    parameters = list(inspect.signature(forward).parameters)
    names = [parameters[place] if place < len(parameters) else str(place) for place in range(len(args))]
    positional, named = rebuilt((dict(zip(names, args, strict=True)), kwargs), lambda tensor: tensor)
    return Entry(positional, named)


def _device(given: Arguments) -> torch.device:
    return next((tensor.device for tensor in tensors_in(given)), torch.device("cpu"))


def _has_nan(value: Any) -> bool:
    numbers = (tensor for tensor in tensors_in(value) if tensor.is_floating_point() or tensor.is_complex())
    return any(bool(tensor.isnan().any()) for tensor in numbers)


@contextmanager
def _intercepted(stacks: Mapping[str, LayerStack], called: Callable[..., Any]) -> Iterator[None]:
    """Let the forward of every layer go through `called`."""
    layers = [(stack.name, layer) for stack in stacks.values() for layer in dict.fromkeys(stack.layers)]
    for name, layer in layers:
        layer.forward = _through(called, name, layer.forward)
    try:
        yield
    finally:
        for _, layer in layers:
            del layer.forward


def _through(called: Callable[..., Any], stack: str, forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def call(*args: Any, **kwargs: Any) -> Any:
        return called(stack, forward, args, kwargs)

    return call
