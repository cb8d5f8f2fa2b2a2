"""A whole model through transformers' from_pretrained, after the headers have been checked."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .architecture import Kind
from .architecture.config_view import ConfigView
from .checkpoint import Checkpoint
from .errors import DoesNotFitError, InvalidCheckpointError, UsageError
from .text import did_you_mean
from .validation import find_problems

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("auto", "float32", "float16", "bfloat16")

# transformers' class for each kind, where the config names none that it knows.
_AUTO_CLASSES: dict[Kind | None, str] = {
    Kind.DECODER_ONLY: "AutoModelForCausalLM",
    Kind.ENCODER_ONLY: "AutoModelForMaskedLM",
    Kind.SEQ2SEQ: "AutoModelForSeq2SeqLM",
    Kind.VISION_LANGUAGE: "AutoModelForImageTextToText",
    Kind.VISION_ONLY: "AutoModel",
    None: "AutoModel",
}


@dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizer, and the seconds that each phase took: headers, import, load."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    kind: Kind | None
    seconds: dict[str, float]


def load_pretrained(reference: str | os.PathLike[str], *, dtype: str = "auto", device: str = "cpu") -> LoadedModel:
    """Load `reference` whole, in its own dtype or another, to `device`.

    Raises InvalidCheckpointError where the headers show that loading would fail or give another model than was saved, UsageError for a
    dtype or model type that is not known, DoesNotFitError for a device that is not there.
    """
    if dtype not in DTYPES:
        raise UsageError(f"unknown dtype '{dtype}'", hint=did_you_mean(dtype, DTYPES) or f"known: {', '.join(DTYPES)}")
    clock = [time.perf_counter()]
    checkpoint = Checkpoint.open(reference)
    kind = _checked(checkpoint)
    clock.append(time.perf_counter())
    import torch
    import transformers

    _check_device(device)
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
    place: dict[str, Any] = {"pretrained_model_name_or_path": checkpoint.location, "trust_remote_code": False}
    if checkpoint.source == "hub":
        place["revision"] = checkpoint.revision
    tokenizer = transformers.AutoTokenizer.from_pretrained(**place)
    named = str(ConfigView(checkpoint.config).class_name)
    auto_class = getattr(transformers, named, None) or getattr(transformers, _AUTO_CLASSES[kind])
    clock.append(time.perf_counter())
    model, info = auto_class.from_pretrained(**place, dtype=dtype if dtype == "auto" else getattr(torch, dtype), output_loading_info=True)
    _check_complete(info, checkpoint)
    model.eval().to(device)
    clock.append(time.perf_counter())
    phases = ("headers", "import", "load")
    return LoadedModel(model, tokenizer, kind, {phase: end - start for phase, start, end in zip(phases, clock, clock[1:], strict=False)})


def generate(loaded: LoadedModel, prompt: str, *, max_new_tokens: int, stream: bool = False) -> tuple[str, int]:
    """What the model says after `prompt`, and in how many tokens; with `stream` also written to stdout as it comes, after the prompt.

    Raises UsageError for an encoder.
    """
    from transformers import TextStreamer

    if loaded.kind is Kind.ENCODER_ONLY:
        raise UsageError(f"{type(loaded.model).__name__} is an encoder: it can't go on from a prompt")
    inputs = loaded.tokenizer(prompt, return_tensors="pt").to(loaded.model.device)
    streamer = TextStreamer(loaded.tokenizer, skip_special_tokens=True) if stream else None
    model: Any = loaded.model  # `generate` comes from a mixin that its type does not show
    tokens: Tensor = model.generate(**inputs, max_new_tokens=max_new_tokens, max_length=None, streamer=streamer)[0]
    start = 0 if loaded.kind is Kind.SEQ2SEQ else inputs["input_ids"].shape[1]
    return str(loaded.tokenizer.decode(tokens[start:], skip_special_tokens=True)), int(tokens.shape[0]) - start


def _checked(checkpoint: Checkpoint) -> Kind | None:
    """The model's kind, once nothing in the headers speaks against loading it."""
    if checkpoint.adapter is not None:
        base = checkpoint.adapter.base_model or "a model that it does not name"
        raise UsageError(f"{checkpoint.reference} is an adapter for {base}, which can't be loaded alone", hint="load its base model")
    if checkpoint.format != "safetensors":
        raise UsageError(
            f"{checkpoint.reference}: only safetensors can be loaded yet, not {checkpoint.format}", hint="`mlload inspect` reads it"
        )
    if checkpoint.source == "hub" and checkpoint.location.count("/") > 1:  # it was the address of a folder or a file
        hint = "name the repository, or download this part and name its folder"
        raise UsageError(f"{checkpoint.location}: only whole repositories can be loaded from the hub yet", hint=hint)
    if checkpoint.config is None:
        raise InvalidCheckpointError(
            "is missing: without it the model can't be built", file="config.json", hint="copy it from where the weights came from"
        )
    _refuse_redirection(checkpoint.config)
    for problem in find_problems(checkpoint):
        if problem.severity == "error":
            raise InvalidCheckpointError(
                problem.message, file=problem.file or checkpoint.location, tensor=problem.tensor, hint="`mlload inspect` lists all problems"
            )
    return checkpoint.architecture.kind


def _refuse_redirection(config: Mapping[str, object], depth: int = 4) -> None:
    """A config may not name other weights than those that were checked, nor attention code on a hub."""
    for key, value in config.items():
        kernel = "attn_implementation" in key and isinstance(value, str) and "/" in value
        if kernel or key == "transformers_weights":
            raise InvalidCheckpointError(
                f"its {key} would load '{value}'", file="config.json", hint=f"take {key} out if you trust the weights"
            )
        if isinstance(value, dict) and depth:
            _refuse_redirection(value, depth - 1)


def _check_device(device: str) -> None:
    import torch

    try:
        named = torch.device(device)
    except RuntimeError:
        raise UsageError(f"unknown device '{device}'", hint="cpu, cuda, cuda:1 or mps") from None
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(named.type, False):
        raise DoesNotFitError(f"there is no {named.type} device that this torch can use", hint="leave --device out to load to the CPU")


def _check_complete(info: dict[str, Any], checkpoint: Checkpoint) -> None:
    """Nothing may have been initialised at random because the checkpoint lacks it."""
    for name in sorted(info["missing_keys"]):
        raise InvalidCheckpointError("the model needs it, but the checkpoint does not hold it", file=checkpoint.location, tensor=name)
    for name, stored, wanted in info["mismatched_keys"]:
        raise InvalidCheckpointError(
            f"its shape is {list(stored)}, but the config makes it {list(wanted)}", file=checkpoint.location, tensor=name
        )
