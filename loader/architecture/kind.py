"""What kind of model it is: encoder-only, decoder-only, seq2seq, vision-language or vision-only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum

from ..tensors import TensorEntry
from .config_view import ConfigView
from .structure import Structure, modality_of


class Kind(StrEnum):
    """How a model reads and writes."""

    ENCODER_ONLY = "encoder-only"
    DECODER_ONLY = "decoder-only"
    SEQ2SEQ = "seq2seq"
    VISION_LANGUAGE = "vision-language"
    VISION_ONLY = "vision-only"


_MASKED_CLASS = re.compile(r"ForMaskedLM|ForPreTraining|[^l]WithLMHeadModel")
_CAUSAL_CLASS = re.compile(r"ForCausalLM|LMHeadModel|ModelWithLMHead$|Decoder$")
# What only models trained to fill in masked words store: segment embeddings, a transform before the head, a pooler.
_MASKED_TENSORS = re.compile(
    r"token_type_emb|token_types|segment_emb|cls\.predictions|lm_head\.dense|pooler\.dense|vocab_transform|^head\.(dense|norm)|pred_layer\.|mask_emb"
)


def detect_kind(view: ConfigView, structure: Structure, tensors: Mapping[str, TensorEntry], *, named: bool = False) -> Kind | None:
    """The kind, from the config where it says, else from the stacks and their names; None for what is neither of text nor of images.

    `named` says that the tensors have the names of a family of text models.
    """
    if structure.embedding is None and view.integer("vocab_size") is None and not named:
        return _kind_without_text(structure)
    if _is_seq2seq(view, structure):
        return Kind.SEQ2SEQ
    main = structure.main
    if _sees(structure) and main is not None and main.modality == "text":
        return Kind.VISION_LANGUAGE
    return Kind.ENCODER_ONLY if _is_encoder(view, structure, tensors) else Kind.DECODER_ONLY


def _kind_without_text(structure: Structure) -> Kind | None:
    """An image model, an encoder of sound, or (an adapter, a denoiser, a shard alone) nothing that can be told."""
    main = structure.main
    if main is not None and main.modality == "audio":
        return Kind.ENCODER_ONLY if main.role == "encoder" else None
    return Kind.VISION_ONLY if _sees(structure) or any(map(_reads_pixels, structure.outside)) else None


def _sees(structure: Structure) -> bool:
    return any(stack.modality == "vision" for stack in structure.stacks) or any(
        modality_of(tensor.name) == "vision" for tensor in structure.outside
    )


def _reads_pixels(tensor: TensorEntry) -> bool:
    """Whether a tensor is a convolution over images of three colours, in PyTorch's layout."""
    return len(tensor.shape) == 4 and tensor.shape[1] == 3 and tensor.shape[2] == tensor.shape[3]


def _is_seq2seq(view: ConfigView, structure: Structure) -> bool:
    declared = view.whole.get("is_encoder_decoder")
    decoder = structure.stack(role="decoder")
    encoders = [stack for stack in structure.stacks if stack.role == "encoder" and not stack.side and stack is not decoder]
    if isinstance(declared, bool) and declared and decoder is not None:
        return True
    return decoder is not None and decoder.cross_attention and any(stack.modality != "vision" for stack in encoders)


def _is_encoder(view: ConfigView, structure: Structure, tensors: Mapping[str, TensorEntry]) -> bool:
    causal = view.flag("causal")
    if view.flag("is_decoder") or causal:
        return False
    if causal is False or view.string("attn_type") == "bi" or view.flag("use_bidirectional_attention"):
        return True
    name = view.class_name or ""
    if _MASKED_CLASS.search(name):
        return True
    bidirectional = structure.main is not None and structure.main.role == "encoder"
    if _CAUSAL_CLASS.search(name) and not bidirectional:
        return False
    return bidirectional or "bert" in (view.model_type or "") or any(_MASKED_TENSORS.search(tensor) for tensor in tensors)
