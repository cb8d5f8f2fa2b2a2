"""What is done with mlx-lm's model once it is loaded: text generated, weights looked at, files written."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm import stream_generate
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_config, load_tokenizer, save_config, save_model

from ..errors import UsageError
from .mlx_skeleton import parameters
from .model_class import refusals


def read_tokenizer(folder: Path) -> TokenizerWrapper:
    """mlx-lm's tokenizer around transformers' own, which ends where the config says. Raises InvalidCheckpointError where there is none."""
    options = {"trust_remote_code": False, "local_files_only": True}
    with refusals("a tokenizer", file="tokenizer files", hint="copy them from where the weights came from"):
        return load_tokenizer(folder, options, eos_token_ids=load_config(folder).get("eos_token_id"))


def generate(model: nn.Module, tokenizer: TokenizerWrapper, prompt: str, *, max_new_tokens: int, stream: bool) -> tuple[str, int]:
    """What the model says after `prompt`, always its likeliest token, and in how many of them; with `stream` also written to stdout."""
    tokens = tokenizer.encode(prompt)
    if not tokens:
        raise UsageError("the prompt holds no token to go on from")
    written: list[str] = [prompt] if stream else []
    text, count = "", 0
    for response in stream_generate(model, tokenizer, tokens, max_tokens=max_new_tokens):
        text, count = text + response.text, response.generation_tokens
        if stream:
            sys.stdout.write("".join(written) + response.text)
            sys.stdout.flush()
            written.clear()
    if stream:
        sys.stdout.write("\n")
    return text, count


def non_finite(model: nn.Module) -> dict[str, int]:
    """How many NaN and infinite elements each array has, for those that have any."""
    floats = {name: array for name, array in parameters(model).items() if mx.issubdtype(array.dtype, mx.floating)}
    found = {name: _count(array) for name, array in floats.items()}
    return {name: count for name, count in found.items() if count}


def _count(array: mx.array) -> int:
    return int(mx.sum(~mx.isfinite(array)).item())  # pyright: ignore[reportArgumentType]  # a number of them is an integer


def write(model: nn.Module, config: Mapping[str, Any], *, source: Path, target: Path) -> None:
    """The model as a checkpoint that mlx-lm loads, with the generation config of the one that it came from."""
    save_model(target, model)
    save_config(dict(config), target / "config.json", keep_vision_config=any("vision_tower" in name for name in parameters(model)))
    if (source / "generation_config.json").exists():
        shutil.copyfile(source / "generation_config.json", target / "generation_config.json")
