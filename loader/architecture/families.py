"""Architecture families by config or tensor names, and what sets one architecture apart from another.

Which family a config names is told by its model_type. Without a config the tensor names tell, as far as they differ: LLaMA and
Mistral are named alike, so that Mistral stands for both. Features (fused projections, residual form, norms) are read from the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from ...configs import table
from ..tensors import TensorEntry
from .blocks import ActivationType, NormType, activation, fused_gate_up, fused_qkv, is_parallel, norm_type
from .config_view import Config, ConfigView, as_number
from .kind import Kind, detect_kind
from .structure import Structure, find_structure


class ModelArchitecture(StrEnum):
    """Families that are told apart by name; everything else is OTHER, and is described by its structure."""

    MISTRAL = "mistral"
    LLAMA = "llama"
    PHI = "phi"
    GEMMA = "gemma"
    QWEN = "qwen"
    OTHER = "other"


class RopeScaling(StrEnum):
    """How rotary positions are stretched beyond the trained context (`rope_type` of transformers)."""

    NONE = "none"
    LINEAR = "linear"
    DYNAMIC_NTK = "dynamic"
    YARN = "yarn"
    LLAMA3 = "llama3"
    LONGROPE = "longrope"
    MROPE = "mrope"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class TensorNamePattern:
    """Where the parts stand, by tensor name; None where a part is not stored."""

    layers: str | None
    embedding: str | None
    norm: str | None
    head: str | None


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding: base, how it is stretched and by which factor."""

    theta: float | None
    scaling: RopeScaling
    factor: float | None


@dataclass(frozen=True)
class ArchitectureConfig:
    """What sets an architecture apart, for any model."""

    architecture: ModelArchitecture
    version: str | None  # of the family: LLaMA 3, Phi 2 ...
    family: str | None  # as the config names it
    class_name: str | None
    kind: Kind | None  # None where nothing tells that this is a model of text or images
    tensor_names: TensorNamePattern
    tie_embeddings: bool
    fused_qkv: bool
    fused_gate_up: bool
    rope_scaling: RopeScaling
    rope: Rope | None
    activation: ActivationType | None
    norm_type: NormType | None
    norm_offset: int  # Gemma's RMSNorm scales by weight + 1
    parallel_residual: bool
    structure: Structure = field(repr=False)

    @classmethod
    def from_tensors(cls, config: Config | None, tensors: Mapping[str, TensorEntry]) -> ArchitectureConfig:
        """All of it, from a config (or None) and a checkpoint's tensor table."""
        view = ConfigView(config)
        declared = None if config is None else view.whole.get("is_encoder_decoder") is True
        structure = find_structure(
            tensors.values(),
            vocab_size=view.integer("vocab_size"),
            tied=declared_tie(view),
            is_encoder_decoder=declared,
            final_norm=table("peculiarities")["final_norm"].get(view.model_type),
        )
        architecture = detect_architecture(config, tensors)
        kind = detect_kind(view, structure, tensors, named=architecture is not ModelArchitecture.OTHER)
        blocks = structure.main if kind is not None else None  # of what is not known to be a model, nothing is guessed
        rope = detect_rope(view)
        parts = (structure.embedding, structure.norm, structure.head)
        return cls(
            architecture=architecture,
            version=_version(architecture, view, tensors),
            family=view.family,
            class_name=view.class_name,
            kind=kind,
            tensor_names=TensorNamePattern(
                structure.main.prefix if structure.main else None, *(part.name if part else None for part in parts)
            ),
            tie_embeddings=_is_tied(view, structure),
            fused_qkv=fused_qkv(structure.main),
            fused_gate_up=fused_gate_up(structure.main),
            rope_scaling=rope.scaling if rope else RopeScaling.NONE,
            rope=rope,
            activation=activation(view, blocks, defaults=_DEFAULT_ACTIVATIONS.get(architecture, (None, "silu"))),
            norm_type=norm_type(view, blocks),
            norm_offset=1 if architecture is ModelArchitecture.GEMMA else 0,
            parallel_residual=is_parallel(view, blocks),
            structure=structure,
        )


class _Declares(Protocol):
    def to_dict(self) -> dict[str, object]: ...


_MODEL_TYPES: tuple[tuple[ModelArchitecture, re.Pattern[str]], ...] = (
    (ModelArchitecture.MISTRAL, re.compile(r"mistral|mixtral|ministral")),
    (ModelArchitecture.LLAMA, re.compile(r"m?llama")),
    (ModelArchitecture.PHI, re.compile(r"phi")),
    (ModelArchitecture.GEMMA, re.compile(r"(t5|vault|recurrent_|pali)?gemma")),
    (ModelArchitecture.QWEN, re.compile(r"qwen")),
)
_FAMILY_NUMBER = re.compile(r"(?:stral|xtral|llama|phi|gemma|qwen)\D*(\d+(?:_\d+)?)")
# Where no config tells: of plain and gated blocks.
_DEFAULT_ACTIVATIONS = {ModelArchitecture.GEMMA: ("gelu_tanh", "gelu_tanh"), ModelArchitecture.PHI: ("gelu_new", "silu")}
_HEADLESS_CLASS = re.compile(r"(?<!LMHead)(?<!MT)(?<!Decoder)Model$")  # BertModel, CLIPModel; but not GPT2LMHeadModel, MarianMTModel


def detect_architecture(config: Config | _Declares | None, tensor_names: Iterable[str] | Mapping[str, object] = ()) -> ModelArchitecture:
    """The family that `config` names (by `architecture` or `model_type`), else the one that the tensor names show."""
    values = config if config is None or isinstance(config, Mapping) else config.to_dict()
    view = ConfigView(values)
    for key in ("architecture", "model_type"):
        named = view.whole.get(key)
        if isinstance(named, str):
            lowered = named.lower()
            return next((family for family, words in _MODEL_TYPES if words.match(lowered)), ModelArchitecture.OTHER)
    return detect_architecture_from_tensors(tensor_names)


def detect_architecture_from_tensors(tensor_names: Iterable[str] | Mapping[str, object]) -> ModelArchitecture:
    """The family that tensor names show. Given a table of names and tensors, the vocabulary's size tells Gemma 1 from its like."""
    names = list(tensor_names)
    text = "\n".join(names)
    if _is_qwen(text):
        return ModelArchitecture.QWEN
    if ".post_feedforward_layernorm." in text and not _is_olmo(text):
        return ModelArchitecture.GEMMA
    if _is_phi(text):
        return ModelArchitecture.PHI
    if re.search(r"^layers\.\d+\.attention\.wq\.", text, re.MULTILINE):
        return ModelArchitecture.LLAMA
    if re.search(r"^model\.layers\.\d+\.self_attn\.", text, re.MULTILINE) and not re.search(r"kv_a_proj|linear_attn|mamba", text):
        return (
            ModelArchitecture.GEMMA
            if isinstance(tensor_names, Mapping) and _has_gemma_vocabulary(tensor_names)
            else ModelArchitecture.MISTRAL
        )
    return ModelArchitecture.OTHER


def _is_qwen(text: str) -> bool:
    """Qwen 1: one c_attn without learned positions. Qwen 2: biases on q, k, v but none on o. Qwen 3: norms on q and k, no others added."""
    if re.search(r"^transformer\.h\.\d+\.attn\.c_attn\.", text, re.MULTILINE):
        return ".wpe." not in text
    if "self_attn.q_proj.bias" in text and "self_attn.o_proj.bias" not in text and "gate_proj" in text:
        return True
    plain = "input_layernorm" in text and "feedforward_layernorm" not in text and "gate_proj" in text and "q_proj.bias" not in text
    return plain and "self_attn.q_norm." in text and "self_attn.k_norm." in text


def _is_olmo(text: str) -> bool:
    return "input_layernorm" not in text and "self_attn.q_norm." in text


def _is_phi(text: str) -> bool:
    """Phi 1 and 2 end in a final_layernorm without mamba or fused attention beside it; Phi 3 fuses both projections."""
    if "model.final_layernorm." in text and not re.search(r"mamba|query_key_value", text):
        return True
    return "self_attn.qkv_proj." in text and "mlp.gate_up_proj." in text


def _has_gemma_vocabulary(tensors: Mapping[str, object]) -> bool:
    shape = getattr(tensors.get("model.embed_tokens.weight"), "shape", None) or tensors.get("model.embed_tokens.weight")
    return isinstance(shape, Sequence) and len(shape) == 2 and 256_000 <= int(shape[0]) <= 262_208 and "lm_head.weight" not in tensors


def _version(architecture: ModelArchitecture, view: ConfigView, tensors: Mapping[str, TensorEntry]) -> str | None:
    """The generation within a family, where model_type, sizes or names tell it."""
    if architecture is ModelArchitecture.LLAMA:
        return _llama_version(view)
    if view.model_type not in (None, architecture):
        number = _FAMILY_NUMBER.search(view.model_type or "")
        return number[1].replace("_", ".") if number and architecture is not ModelArchitecture.OTHER else None
    if architecture is ModelArchitecture.PHI:
        return "3" if any("gate_up_proj" in name for name in tensors) else "2"
    if architecture is ModelArchitecture.GEMMA:
        return "2" if any("post_feedforward_layernorm" in name for name in tensors) else "1"
    if architecture is ModelArchitecture.QWEN:
        return "1" if any("c_attn" in name for name in tensors) else ("2" if any("q_proj.bias" in name for name in tensors) else "3")
    return None


def _llama_version(view: ConfigView) -> str | None:
    number = re.search(r"\d+", view.model_type or "")
    if number:
        return number[0]
    rope, vocab_size, context = detect_rope(view), view.integer("vocab_size"), view.integer("max_position_embeddings")
    if (rope and rope.theta is not None and rope.theta > 100_000 and (vocab_size or 0) > 100_000) or (vocab_size or 0) > 100_000:
        return "3"
    if rope and rope.theta is not None and rope.theta > 100_000 and vocab_size is None:
        return "3"
    if context is None or vocab_size is None or not 32_000 <= vocab_size < 32_100:  # the tokenizer of the first two generations
        return None
    return "1" if context <= 2048 else "2"


def detect_rope(view: ConfigView) -> Rope | None:
    """Rotary embedding by `rope_parameters` (transformers 5), or by `rope_theta` and `rope_scaling`; None without either."""
    parameters = view.get("rope_parameters")
    if not isinstance(parameters, dict):
        parameters = view.get("rope_scaling") or {}
    if isinstance(parameters, dict) and parameters and all(isinstance(value, dict) for value in parameters.values()):
        parameters = parameters.get("full_attention") or next(iter(parameters.values()))  # one set a layer type
    if not isinstance(parameters, dict):
        return None
    theta = as_number(parameters.get("rope_theta")) or view.number("rope_theta") or view.number("rotary_emb_base")
    kind = parameters.get("rope_type") or parameters.get("type")
    if theta is None and kind is None:
        return None
    return Rope(theta, _rope_scaling(kind), as_number(parameters.get("factor")))


def _rope_scaling(kind: object) -> RopeScaling:
    if kind in (None, "default"):
        return RopeScaling.NONE
    if kind == "su":
        return RopeScaling.LONGROPE
    return RopeScaling(kind) if isinstance(kind, str) and kind in RopeScaling._value2member_map_ else RopeScaling.OTHER


def declared_tie(view: ConfigView) -> bool | None:
    """What the config says of tied embeddings; the whole model's word counts before its text section's."""
    declared = view.whole.get("tie_word_embeddings")
    return declared if isinstance(declared, bool) else view.flag("tie_word_embeddings")


def _is_tied(view: ConfigView, structure: Structure) -> bool:
    """Whether the embedding is the head as well: no head is stored, or on the same bytes, though the class has one."""
    embedding, head = structure.embedding, structure.head
    if embedding is None or _HEADLESS_CLASS.search(view.class_name or ""):
        return False
    if head is not None:
        return head.place == embedding.place
    return declared_tie(view) is not False
