"""Partial forwards of one model type held against the whole model: logits and hidden states, cut before every layer, through files."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from zoo import Entry, inputs_of, run

from mlload.layers.layered import LayeredModel
from mlload.layers.partial import partial_forward
from mlload.loader.checkpoint import Checkpoint
from mlload.loader.loading import load
from mlload.loader.settings import ModelLoadingConfig

IDS = torch.arange(20, 28)[None]


def differences(folder: Path, scratch: Path, dtype: torch.dtype = torch.float32) -> list[str]:
    """Every way in which the chained parts, each begun from a file, differ from the whole; empty if none."""
    whole, model, inputs, logits = _both(folder, dtype)
    found = [] if torch.equal(_chained(model, inputs, scratch), logits) else ["logits of the chain"]
    return [*found, *_hidden(model, whole, inputs)]


def cuts(folder: Path, scratch: Path, dtype: torch.dtype) -> tuple[int, list[str]]:
    """How many places there are between the layers of all stacks that are gone through, and those from which the logits differ."""
    _, model, inputs, logits = _both(folder, dtype)
    count, wrong = 0, []
    gone_through = model.run(inputs).calls
    stacks = {model.stack(stored.prefix).name for stored in Checkpoint.open(folder).architecture.structure.stacks}
    for stack in sorted(stack for stack in stacks if gone_through[stack]):
        again = gone_through[stack] > len(model.stacks[stack].layers)  # where the end of the stack is, nobody can say
        for layer in range(gone_through[stack] + (not again)):
            state = partial_forward(model, inputs=inputs, layers=f":{layer}", stack=stack).state
            assert state is not None
            state.save(scratch / f"{stack}-{layer}")
            count += 1
            if not torch.equal(_logits(model, scratch / f"{stack}-{layer}"), logits):
                wrong.append(f"{stack} before {layer}")
    return count, wrong


def _both(folder: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, LayeredModel, Mapping[str, Any], Tensor]:
    """The whole model, the one that is run in parts, and the inputs with the logits that the whole one gives."""
    truth = json.loads((folder / "truth.json").read_text())
    entry = Entry(truth["model_type"], truth["task"], truth["class_name"])
    settings = ModelLoadingConfig(folder, dtype=dtype, device="cpu")
    whole = load(settings).model
    return whole, LayeredModel(settings), inputs_of(whole, entry, IDS), run(whole, entry)


def _chained(model: LayeredModel, inputs: Mapping[str, Any], scratch: Path) -> Tensor:
    """Logits, a layer at a time."""
    begun: dict[str, Any] = {"inputs": inputs}
    for layer in range(len(model.main.layers) + 1):
        state = partial_forward(model, **begun, layers=f":{layer}").state
        assert state is not None
        begun = {"state": scratch / f"{layer}.safetensors"}
        state.save(begun["state"])
    return _logits(model, begun["state"])


def _logits(model: LayeredModel, file: Path) -> Tensor:
    logits = partial_forward(model, state=file, head=True).logits
    assert logits is not None
    return logits


def _hidden(model: LayeredModel, whole: PreTrainedModel, inputs: Mapping[str, Any]) -> Iterator[str]:
    """What enters each layer must be among what hooks see entering it in the whole model."""
    mine = partial_forward(model, inputs=inputs, hidden_states=True).hidden_states
    seen: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    names = {layer: name for name, layer in model.model.named_modules() if layer in model.main.layers}
    for layer in model.main.layers:
        hook = lambda _, args, kwargs, name=names[layer]: seen[name].append((*args, *kwargs.values()))  # noqa: E731
        whole.get_submodule(names[layer]).register_forward_pre_hook(hook, with_kwargs=True)
    with torch.no_grad():
        torch.manual_seed(0)
        whole(**inputs)
    for number, layer in enumerate(model.main.layers):
        given = seen[names[layer]]  # empty for SqueezeBERT, which calls no layer but its forward
        if given and not any(isinstance(value, Tensor) and torch.equal(value, mine[number]) for value in given[0]):
            yield f"hidden states {number}"
