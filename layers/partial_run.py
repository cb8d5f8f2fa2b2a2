"""Everything that `mlload partial-forward` does, as one call: run part of a model, look at it, write what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..loader.phases import phase
from ..loader.settings import ModelLoadingConfig
from .generation import generate
from .inputs import inputs_of_ids, inputs_of_texts, prompts_in
from .layered import LayeredModel
from .lens import logit_lens
from .lens_plot import check_plot, plot_lens
from .new_file import check_new, write_new
from .partial import PartialForward, partial_forward
from .partial_report import PartialReport, generation_report, partial_report
from .partial_request import PartialRequest
from .state import ForwardState
from .top_tokens import open_positions, prompt_texts, top_tokens


def run_partial(settings: ModelLoadingConfig, request: PartialRequest) -> PartialReport:
    """Run what is requested. Raises what `partial_forward` raises, and UsageError for wishes that go against one another."""
    request.check()
    if request.plot is not None:
        check_plot(request.plot)
    model = LayeredModel(settings)
    for path in filter(None, (request.output, request.save_hidden, request.plot)):
        check_new(path, model_folder=model.loaded.folder)
    seconds = model.loaded.seconds
    if request.generate is not None:
        inputs = _inputs(model, request)
        with phase(seconds, "generate"):
            made = generate(model.loaded, inputs, max_new_tokens=request.generate)
        return generation_report(model, inputs, request.texts, made)
    with phase(seconds, "forward"):
        part = _part(model, request)
        report = _told(model, part, request)
    if request.output is not None and part.state is not None:
        part.state.save(request.output)
    if request.save_hidden is not None:
        _write_hidden(part, request.save_hidden)
    return replace(report, output=_name(request.output), hidden_output=_name(request.save_hidden), plot=_name(request.plot))


def _inputs(model: LayeredModel, request: PartialRequest) -> Mapping[str, Any]:
    return inputs_of_ids(model.loaded, torch.tensor([request.ids])) if request.ids else inputs_of_texts(model.loaded, request.texts)


def _part(model: LayeredModel, request: PartialRequest) -> PartialForward:
    layers = "0:0" if request.embedding_only else request.layers or ":"
    last = len(model.main.layers)
    if request.head and request.layers is None:
        layers = f"{last}:{last}"
    if request.lens:
        layers = f"{layers.strip()}{last}"
    state = None if request.input is None else ForwardState.load(request.input)
    return partial_forward(
        model,
        request.texts or None,
        inputs=inputs_of_ids(model.loaded, torch.tensor([request.ids])) if request.ids else None,
        state=state,
        layers=layers,
        stack=request.stack,
        head=request.head and not request.lens,
        hidden_states=request.lens or request.save_hidden is not None,
        last_logits=True,
        use_cache=request.cache,
        times=dict.fromkeys(request.skip, 0) | dict.fromkeys(request.repeat, 2),
    )


def _told(model: LayeredModel, part: PartialForward, request: PartialRequest) -> PartialReport:
    if request.lens:
        lines = logit_lens(model, part, count=request.topk, everywhere=request.plot is not None)
        if request.plot is not None:
            plot_lens(lines, prompt_texts(part.inputs, model.loaded), request.plot)
        asked = set(open_positions(part.inputs, model.loaded))
        return partial_report(model, part, lens=tuple(line for line in lines if (line.prompt, line.position) in asked))
    if part.logits is None:
        return partial_report(model, part)
    return partial_report(model, part, top=top_tokens(part.logits, part.inputs, model.loaded, count=request.topk))


def _write_hidden(part: PartialForward, path: Path) -> None:
    """What enters every layer, by its number, and the token ids, as a plain safetensors file."""
    hidden = {f"hidden_states.{layer}": tensor for layer, tensor in part.hidden_states.items()}
    write_new(path, {"schema": "mlload.hidden-states/1", "stack": part.stack}, {**hidden, "input_ids": prompts_in(part.inputs)})


def _name(path: Path | None) -> str | None:
    return None if path is None else str(path)
