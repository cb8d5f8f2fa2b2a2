"""mlload's load held against from_pretrained's, for one checkpoint: names, bits, ties, buffers, logits. transformers is the judge."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel
from zoo import Entry, run

from mlload.loader.loading import load
from mlload.loader.settings import ModelLoadingConfig

AUTO = {
    "causal": transformers.AutoModelForCausalLM,
    "masked": transformers.AutoModelForMaskedLM,
    "seq2seq": transformers.AutoModelForSeq2SeqLM,
}


def pretrained(folder: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, dict[str, Any]]:
    """What from_pretrained gives, with what it says of missing and unexpected names."""
    task, name = (json.loads((folder / "truth.json").read_text())[key] for key in ("task", "class_name"))
    try:
        return AUTO[task].from_pretrained(folder, dtype=dtype, output_loading_info=True)
    except ValueError:  # decoders of composite models have no automatic class
        return getattr(transformers, name).from_pretrained(folder, dtype=dtype, output_loading_info=True)


def differences(folder: Path, dtype: torch.dtype) -> list[str]:
    """Every way in which the two models differ; empty if none."""
    wanted, info = pretrained(folder, dtype)
    loaded = load(ModelLoadingConfig(folder, dtype=dtype, device="cpu"))
    entry = json.loads((folder / "truth.json").read_text())
    case = Entry(entry["model_type"], entry["task"], entry["class_name"])
    found = list(_state(wanted, loaded.model))
    if set(loaded.missing) != set(info["missing_keys"]) or set(loaded.plan.unexpected) != set(info["unexpected_keys"]):
        found.append("missing or unexpected names")
    if not _same(_logits(wanted, case), _logits(loaded.model, case)):
        found.append("logits")
    return found


def _logits(model: PreTrainedModel, case: Entry) -> torch.Tensor:
    """What the model says; of one that can't compute in its dtype the error's words, as a tensor."""
    try:
        return run(model, case)
    except RuntimeError as error:
        return torch.tensor(list(str(error).encode()))


def _state(wanted: nn.Module, got: nn.Module) -> Iterator[str]:
    if type(wanted) is not type(got):
        yield f"class {type(got).__name__}"
    for kind in ("state_dict", "named_parameters", "named_buffers"):  # named_parameters leaves out what is tied to one before
        before, after = (dict(getattr(model, kind)()) for model in (wanted, got))
        if list(before) != list(after):
            yield f"names of {kind}"
        yield from (f"{kind} {name}" for name in before.keys() & after.keys() if not _same(before[name], after[name]))
    if wanted.training != got.training or wanted.config.to_dict() != got.config.to_dict():
        yield "config or mode"


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return (
        one.dtype == other.dtype
        and one.requires_grad == other.requires_grad
        and torch.equal(one.isnan(), other.isnan())
        and torch.equal(one.nan_to_num(), other.nan_to_num())
    )
