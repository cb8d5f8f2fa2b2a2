"""A forward by hand over modules that a collector loaded: the embedding, layer after layer, the head.

Each call runs the model's own forward, with these modules in their places, from where the state stands to the next layer. So masks
(causal, sliding, chunked, bidirectional), positions and caches are those that the model itself makes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..loader.errors import UsageError
from .hidden import hidden_of, with_hidden, with_hidden_in
from .inputs import inputs_of_ids
from .layered import LayeredModel
from .nested import Held, empty_cache, restored
from .origins import Origin, origin_of
from .passage import Boundary, Entry

if TYPE_CHECKING:
    from transformers import Cache, PretrainedConfig


class ComputeState:
    """A forward that stands before a layer, or after the last one.

    `state` holds the hidden states that come next. What `compute_layer` gives is assigned to it, changed or as it is; that moves the
    forward on. Any other tensor that is assigned takes the place of the hidden states where the forward stands.
    """

    def __init__(self, model: LayeredModel, boundary: Boundary) -> None:
        self.model = model
        self.boundary = boundary
        self.computed: Boundary | None = None  # where the last `compute_layer` led

    @property
    def state(self) -> Tensor:
        """The hidden states, of shape (prompts, tokens, hidden size) in all but a few models."""
        return self.boundary.hidden_states

    @state.setter
    def state(self, hidden: Tensor) -> None:
        boundary, self.computed = self.computed or self.boundary, None
        self.boundary = boundary if boundary.hidden_states is hidden else _with_hidden_states(boundary, hidden)

    @property
    def layer(self) -> int:
        """The layer that comes next; after the last one, how many there are."""
        return self.boundary.call

    @property
    def past_key_values(self) -> Cache | None:
        """Keys and values of the layers so far, for the `compute_embedding` of what follows; None where no cache is used."""
        entry = self.boundary.entry
        held = next((value for value in (*entry.positional.values(), *entry.named.values()) if isinstance(value, Held)), None)
        return None if held is None else restored(empty_cache(self.model.model), held)


def compute_embedding(
    embedding: nn.Module,
    input_ids: Tensor,
    config: PretrainedConfig,
    *,
    attention_mask: Tensor | None = None,
    past_key_values: Cache | None = None,
    use_cache: bool = False,
    inputs: Mapping[str, Any] | None = None,
) -> ComputeState:
    """A forward on `input_ids`, of shape (prompts, tokens), up to the first layer of the collector's stack.

    `past_key_values` of an earlier state make it go on from there, with a cache; the first of several parts of a prompt asks for one by
    `use_cache`. `inputs` are others that the model takes, by name. Raises UsageError where `config` is of another model, and for a token
    outside the vocabulary.
    """
    origin = origin_of(embedding)
    model = origin.model()
    if config.model_type != model.model.config.model_type:
        raise UsageError(f"the embedding is of a model of type {model.model.config.model_type}, the config of {config.model_type}")
    given = {**inputs_of_ids(model.loaded, input_ids, mask=attention_mask), **(inputs or {})}
    if past_key_values is not None or use_cache:
        given.update(use_cache=True, past_key_values=past_key_values)
    with _in_place(model, {origin.name: embedding}):
        return ComputeState(model, _stopped(model, given, None, (origin.stack, 0)))


def compute_layer(layer: nn.Module, state: ComputeState) -> Tensor:
    """What `layer` makes of the state, to be assigned to `state.state`. Layers between hand on what comes in, as if they were left out.

    A cache that the state holds may be used up: each layer is gone through once. Raises UsageError for a layer that lies behind.
    """
    origin = origin_of(layer)
    model, boundary = state.model, state.boundary
    there, number = len(boundary.outputs.get(origin.stack, ())), _number(origin)
    if number < there:
        raise UsageError(f"the state is before layer {there} of {origin.stack}: layer {number} lies behind it")
    state.computed = _stopped(
        model,
        boundary.inputs,
        boundary,
        (origin.stack, number + 1),
        instead={(origin.stack, number): layer},
        times={(origin.stack, between): 0 for between in range(there, number)},
    )
    return state.computed.hidden_states


def compute_head(head: nn.Module, state: Tensor | ComputeState, topk: int | None = 1) -> Tensor:
    """The `topk` likeliest next tokens of every prompt, the best one first, of shape (prompts, topk); with None the logits of all tokens.

    `state` are hidden states that the final norm was applied to; or the state itself, which the model's own end is then run on, whatever
    it does between last layer and head. Layers that the state has not come to are run too, their weights read for that.
    """
    if isinstance(state, ComputeState):
        with _in_place(state.model, {origin_of(head).name: head}):
            logits = state.model.run(state.boundary.inputs, start=state.boundary, keeps_caches=False).result
        assert logits is not None
    else:
        with torch.no_grad():
            logits = head(state if topk is None else state[..., -1:, :])
    return logits if topk is None else logits[..., -1, :].topk(topk).indices


def _number(origin: Origin) -> int:
    if origin.number is None:
        raise UsageError(f"{origin.name} is no layer of a stack", hint="load_layer_set gives layers")
    return origin.number


def _stopped(model: LayeredModel, inputs: Mapping[str, Any], start: Boundary | None, stop: tuple[str, int], **options: Any) -> Boundary:
    reached = model.run(inputs, start=start, stop=stop, keeps_caches=False, **options).boundary
    if reached is None:
        raise UsageError(f"layer {stop[1]} of {stop[0]} was not come to: the model does not go through it on these inputs")
    return reached


def _with_hidden_states(boundary: Boundary, hidden: Tensor) -> Boundary:
    """The boundary with other hidden states, wherever they stand in it."""
    old = boundary.hidden_states
    args, kwargs = with_hidden_in(*boundary.entry.arguments, hidden)
    entry = boundary.entry if boundary.is_ended else Entry(dict(zip(boundary.entry.positional, args, strict=True)), kwargs)
    outputs = list(boundary.outputs.get(boundary.stack, ()))
    if outputs and (boundary.is_ended or hidden_of(outputs[-1]) is old):
        outputs[-1] = with_hidden(outputs[-1], hidden)
    return replace(boundary, entry=entry, outputs={**boundary.outputs, boundary.stack: outputs})


@contextmanager
def _in_place(model: LayeredModel, modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Let `modules` compute where the model calls its own of these names."""
    own = {model.model.get_submodule(name): module for name, module in modules.items()}
    for place, module in own.items():
        place.forward = _calling(module)
    try:
        yield
    finally:
        for place in own:
            del place.forward


def _calling(module: nn.Module) -> Any:
    return lambda *args, **kwargs: module(*args, **kwargs)  # assigned itself it would become a child
