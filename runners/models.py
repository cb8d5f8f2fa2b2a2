"""The factory: from a name to the runner that suits the model's architecture."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..loader.architecture import Kind
from ..loader.checkpoint import Checkpoint
from ..loader.errors import UsageError
from ..loader.registry import ModelSpec, find_spec, registered_models
from ..loader.settings import Head, ModelLoadingConfig, QuantizationConfig, QuantizationMethod, choice
from .base import BaseModelRunner
from .decoder_only import DecoderModelRunner
from .encoder_only import EncoderModelRunner
from .placement import coerce_device, resolve_dtype
from .seq2seq import Seq2SeqModelRunner

if TYPE_CHECKING:
    import torch

RUNNERS: Mapping[str, type[BaseModelRunner]] = {
    "encoder_only": EncoderModelRunner,
    "decoder_only": DecoderModelRunner,
    "seq2seq": Seq2SeqModelRunner,
}
_ARCHITECTURES = {
    Kind.ENCODER_ONLY: "encoder_only",
    Kind.DECODER_ONLY: "decoder_only",
    Kind.SEQ2SEQ: "seq2seq",
    Kind.VISION_LANGUAGE: "decoder_only",
}


def list_available_models() -> list[str]:
    """The names of all registered models, the user's own among them."""
    return list(registered_models())


def load_model(
    model: str | os.PathLike[str] | ModelSpec,
    device: str | int | torch.device | None = None,
    *,
    dtype: str | torch.dtype | None = None,
    quantize: str | QuantizationConfig | None = None,
    attentions: bool = True,
    head: bool = True,
    resident: int | None = None,
    trust_remote_code: bool = False,
) -> BaseModelRunner:
    """The runner for a registered name, a hub id, a folder, a file, or a spec of one's own.

    `dtype`: None for what the spec prefers, else the checkpoint's own. `quantize`: a method (nf4, fp4, int8, hqq) or "none", None for
    what the spec says. `attentions`: False leaves attention maps out, and takes the model's fastest attention. `head`: False leaves the
    language-model head out. `resident`: bytes of weights in memory at once; a model that does not fit is streamed anyway.

    Raises what loading raises: NotFoundError, InvalidCheckpointError, UsageError, DoesNotFitError, MissingDependencyError.
    """
    spec = model if isinstance(model, ModelSpec) else _spec(model)
    settings = ModelLoadingConfig(
        spec.hf_id if isinstance(model, ModelSpec) else model,
        device=coerce_device(device),
        dtype=resolve_dtype(dtype) or resolve_dtype(spec.dtype) or "auto",
        quantization_config=_quantization(quantize, spec),
        attn_implementation="eager" if attentions else None,
        head=Head.OWN if head else Head.NONE,
        resident=resident,
        trust_remote_code=trust_remote_code,
    )
    return RUNNERS[spec.arch or _architecture(settings.model_name)](spec, settings, attentions=attentions)


def _spec(model: str | os.PathLike[str]) -> ModelSpec:
    return find_spec(model) or ModelSpec(os.fspath(model), os.fspath(model))


def _architecture(model: str | os.PathLike[str]) -> str:
    """What the headers say. Raises UsageError for a model that reads no text."""
    kind = Checkpoint.open(model).architecture.kind
    if kind is None or kind not in _ARCHITECTURES:
        found = "of a kind that its headers don't tell" if kind is None else kind.value
        raise UsageError(f"{os.fspath(model)} is {found}: there is no runner for it", hint="a ModelSpec with an `arch` says which to take")
    return _ARCHITECTURES[kind]


def _quantization(quantize: str | QuantizationConfig | None, spec: ModelSpec) -> QuantizationConfig | None:
    if isinstance(quantize, QuantizationConfig):
        return quantize
    if quantize is None:
        return QuantizationConfig(QuantizationMethod.BNB_INT8) if spec.use_bitsandbytes else None
    return None if quantize == "none" else QuantizationConfig(choice(QuantizationMethod, quantize))
