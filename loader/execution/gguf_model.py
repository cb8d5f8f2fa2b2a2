"""A GGUF model as a plan of one step: transformers' own reader dequantizes the weights and puts them in the order of its modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GgufConfig, PretrainedConfig
from transformers.utils import logging

from ..checkpoint import Checkpoint
from ..errors import InvalidCheckpointError, MissingDependencyError, UsageError
from ..plan import LoadPlan, Step, Target, Unit
from ..settings import ModelLoadingConfig
from .gguf_parts import one_file
from .model_class import refusals
from .skeleton import Skeleton


def in_transformers_config(checkpoint: Checkpoint, settings: ModelLoadingConfig, folder: Path) -> Checkpoint:
    """The checkpoint with the config that transformers reads from the GGUF file's metadata.

    Raises MissingDependencyError without what that takes, UsageError for what transformers can't do with such a file.
    """
    for package in ("gguf", "accelerate"):
        if find_spec(package) is None:
            raise MissingDependencyError(f"a GGUF file needs {package} to be loaded", hint='pip install "mlload[gguf]"')
    if settings.quantization_config is not None:
        raise UsageError("the weights of a GGUF file are quantized already", hint="--save what they are dequantized to, and load that")
    with one_file(checkpoint, folder, weights=False) as file, _refusals(checkpoint), _quiet():
        config, _ = PretrainedConfig.get_config_dict(file.parent, gguf_file=file.name, local_files_only=True)
    return replace(checkpoint, config=config)


@dataclass(frozen=True)
class Dequantization:
    """In the place of a conversion: all tensors of the file become all of the model's at once."""

    checkpoint: Checkpoint
    folder: Path
    skeleton: Skeleton
    device: torch.device
    summary: str = "dequantized by transformers"
    patterns: list[str] = field(default_factory=list)  # it takes its tensors by no pattern
    stacks_only: bool = False
    keeps_stored_dtype: bool = True

    def run(self, sources: Iterable[object]) -> dict[str, Tensor]:
        """The model's tensors by name; raises InvalidCheckpointError where the file lacks one."""
        del sources  # transformers reads the file itself
        first, model_class = self.checkpoint.shards[0], type(self.skeleton.model)
        with one_file(self.checkpoint, self.folder, weights=True) as file, _refusals(self.checkpoint), _quiet():
            loaded: Any = model_class.from_pretrained(
                file.parent,
                gguf_file=file.name,
                dtype=self.skeleton.dtype,
                quantization_config=GgufConfig(dequantize=True),
                output_loading_info=True,
                local_files_only=True,
            )
        model, info = loaded
        lacking = sorted(self.skeleton.truly_missing(info["missing_keys"]))
        if lacking:
            raise InvalidCheckpointError(f"{model_class.__name__} needs it, but the file does not hold it", file=first, tensor=lacking[0])
        state = model.state_dict()
        return {name: state[name].to(self.device) for name in _filled(self.skeleton)}


def dequantizing_plan(checkpoint: Checkpoint, skeleton: Skeleton, folder: Path, device: torch.device) -> LoadPlan:
    """The plan for filling `skeleton` from a GGUF file."""
    targets = tuple(Target(name, tuple(skeleton.targets[name].shape), skeleton.dtype_of(name)) for name in _filled(skeleton))
    sources = tuple((entry, name) for name, entry in checkpoint.tensors.items())
    step = Step("all weights", sources, targets, Dequantization(checkpoint, folder, skeleton, device))
    tied = dict(skeleton.ties)
    return LoadPlan((Unit(step.unit, (step,)),), missing=tuple(tied), unexpected=(), mismatched=(), ties=tied)


def _filled(skeleton: Skeleton) -> list[str]:
    """What is read: all but those that are tied to another."""
    return [name for name in skeleton.targets if name not in skeleton.ties]


@contextmanager
def _refusals(checkpoint: Checkpoint) -> Iterator[None]:
    with refusals("a model", file=checkpoint.shards[0], hint="`mlload inspect` shows what it holds"):
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own bars and warnings beside our progress."""
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
