"""The families of the seed document, each with the config and tensor names that its releases have."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from mlload import ModelArchitecture, RopeScaling, detect_architecture, detect_architecture_from_tensors
from mlload.loader.architecture import ActivationType, ArchitectureConfig, NormType
from mlload.loader.tensors import TensorEntry

LLAMA_LAYER = (
    "input_layernorm.weight self_attn.q_proj.weight self_attn.k_proj.weight self_attn.v_proj.weight self_attn.o_proj.weight "
    "post_attention_layernorm.weight mlp.gate_proj.weight mlp.up_proj.weight mlp.down_proj.weight"
).split()
QWEN2_LAYER = [*LLAMA_LAYER, "self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"]
GEMMA2_LAYER = [*LLAMA_LAYER, "pre_feedforward_layernorm.weight", "post_feedforward_layernorm.weight"]
PHI2_LAYER = (
    "input_layernorm.weight input_layernorm.bias self_attn.q_proj.weight self_attn.k_proj.weight self_attn.v_proj.weight "
    "self_attn.dense.weight self_attn.dense.bias mlp.fc1.weight mlp.fc1.bias mlp.fc2.weight mlp.fc2.bias"
).split()
PHI3_LAYER = (
    "input_layernorm.weight self_attn.qkv_proj.weight self_attn.o_proj.weight post_attention_layernorm.weight mlp.gate_up_proj.weight "
    "mlp.down_proj.weight"
).split()
QWEN1_LAYER = (
    "ln_1.weight attn.c_attn.weight attn.c_attn.bias attn.c_proj.weight ln_2.weight mlp.w1.weight mlp.w2.weight mlp.c_proj.weight".split()
)


def names(
    layer: list[str], *, prefix: str = "model.layers", outside: str = "model.embed_tokens.weight model.norm.weight lm_head.weight"
) -> list[str]:
    return [*outside.split(), *(f"{prefix}.{index}.{name}" for index in range(2) for name in layer)]


@dataclass(frozen=True)
class Release:
    """A released model: its config, its tensor names, and what is true of it."""

    name: str
    config: dict[str, object]
    tensors: list[str]
    family: ModelArchitecture
    version: str | None
    activation: ActivationType
    by_names: ModelArchitecture | None = None  # where names alone tell another family
    norm: NormType = NormType.RMS_NORM
    parallel: bool = False
    fused_qkv: bool = False
    fused_gate_up: bool = False
    tied: bool = False
    rope: RopeScaling = RopeScaling.NONE
    offset: int = 0


M, L, P, G, Q = (ModelArchitecture[name] for name in ("MISTRAL", "LLAMA", "PHI", "GEMMA", "QWEN"))
SWIGLU, GEGLU = ActivationType.SWIGLU, ActivationType.GEGLU
LLAMA3_ROPE = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}
SILU = {"hidden_act": "silu", "rms_norm_eps": 1e-5}
TIED = "model.embed_tokens.weight model.norm.weight"
PHI2_OUTSIDE = "model.embed_tokens.weight model.final_layernorm.weight model.final_layernorm.bias lm_head.weight lm_head.bias"
QWEN1_OUTSIDE = "transformer.wte.weight transformer.ln_f.weight lm_head.weight"

RELEASES = (
    Release(
        "mistral-7b",
        SILU | {"model_type": "mistral", "rope_theta": 1e4, "vocab_size": 32000, "sliding_window": 4096},
        names(LLAMA_LAYER),
        M,
        None,
        SWIGLU,
    ),
    Release(
        "llama-1",
        SILU | {"model_type": "llama", "vocab_size": 32000, "max_position_embeddings": 2048},
        names(LLAMA_LAYER),
        L,
        "1",
        SWIGLU,
        by_names=M,
    ),
    Release(
        "llama-2",
        SILU | {"model_type": "llama", "vocab_size": 32000, "max_position_embeddings": 4096},
        names(LLAMA_LAYER),
        L,
        "2",
        SWIGLU,
        by_names=M,
    ),
    Release(
        "llama-2, stretched",
        SILU
        | {
            "model_type": "llama",
            "vocab_size": 32000,
            "max_position_embeddings": 4096,
            "rope_theta": 1e4,
            "rope_scaling": {"type": "linear", "factor": 2.0},
        },
        names(LLAMA_LAYER),
        L,
        "2",
        SWIGLU,
        by_names=M,
        rope=RopeScaling.LINEAR,
    ),
    Release(
        "llama-3",
        SILU | {"model_type": "llama", "vocab_size": 128256, "rope_theta": 5e5, "max_position_embeddings": 8192},
        names(LLAMA_LAYER),
        L,
        "3",
        SWIGLU,
        by_names=M,
    ),
    Release(
        "llama-3.1",
        SILU | {"model_type": "llama", "vocab_size": 128256, "rope_theta": 5e5, "rope_scaling": LLAMA3_ROPE},
        names(LLAMA_LAYER),
        L,
        "3",
        SWIGLU,
        by_names=M,
        rope=RopeScaling.LLAMA3,
    ),
    Release(
        "phi-2",
        {"model_type": "phi", "hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "vocab_size": 51200},
        names(PHI2_LAYER, outside=PHI2_OUTSIDE),
        P,
        "2",
        ActivationType.GELU_TANH,
        norm=NormType.LAYER_NORM,
        parallel=True,
    ),
    Release(
        "phi-3",
        SILU | {"model_type": "phi3", "vocab_size": 32064, "rope_theta": 1e4, "rope_scaling": {"type": "longrope"}},
        names(PHI3_LAYER),
        P,
        "3",
        SWIGLU,
        fused_qkv=True,
        fused_gate_up=True,
        rope=RopeScaling.LONGROPE,
    ),
    Release(
        "gemma-1",
        {"model_type": "gemma", "hidden_act": "gelu", "rms_norm_eps": 1e-6, "vocab_size": 256000},
        names(LLAMA_LAYER, outside=TIED),
        G,
        "1",
        GEGLU,
        tied=True,
        offset=1,
    ),
    Release(
        "gemma-2",
        {"model_type": "gemma2", "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6, "vocab_size": 256000},
        names(GEMMA2_LAYER, outside=TIED),
        G,
        "2",
        GEGLU,
        tied=True,
        offset=1,
    ),
    Release(
        "qwen-1",
        {"model_type": "qwen", "layer_norm_epsilon": 1e-6, "vocab_size": 151936, "rotary_emb_base": 10000},
        names(QWEN1_LAYER, prefix="transformer.h", outside=QWEN1_OUTSIDE),
        Q,
        "1",
        SWIGLU,
        fused_qkv=True,
    ),
    Release("qwen-2", SILU | {"model_type": "qwen2", "vocab_size": 151936, "rope_theta": 1e6}, names(QWEN2_LAYER), Q, "2", SWIGLU),
)


def table(tensors: list[str], vocab_size: int) -> dict[str, TensorEntry]:
    def shape(name: str) -> tuple[int, ...]:
        if "embed" in name or "wte" in name or name.startswith("lm_head.w"):
            return (vocab_size, 64)
        return (64,) if "norm" in name or "ln_" in name or name.endswith("bias") else (64, 64)

    return {name: TensorEntry(name, "BF16", shape(name), "model.safetensors", 2 * place, 2) for place, name in enumerate(tensors)}


def described(release: Release) -> ArchitectureConfig:
    return ArchitectureConfig.from_tensors(release.config, table(release.tensors, int(str(release.config["vocab_size"]))))


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_family_by_config(release: Release) -> None:
    assert detect_architecture(release.config, release.tensors) is release.family
    assert described(release).version == release.version


@pytest.mark.parametrize("release", [each for each in RELEASES if each.name != "gemma-1"], ids=lambda release: release.name)
def test_family_by_names_alone(release: Release) -> None:
    assert detect_architecture_from_tensors(release.tensors) is (release.by_names or release.family)


def test_gemma_1_is_known_by_its_vocabulary_when_shapes_are_given() -> None:
    gemma = next(release for release in RELEASES if release.name == "gemma-1")
    assert detect_architecture_from_tensors(table(gemma.tensors, 256000)) is ModelArchitecture.GEMMA


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_what_sets_it_apart(release: Release) -> None:
    found = described(release)
    assert (found.activation, found.norm_type, found.norm_offset) == (release.activation, release.norm, release.offset)
    assert (found.fused_qkv, found.fused_gate_up) == (release.fused_qkv, release.fused_gate_up)
    assert (found.parallel_residual, found.tie_embeddings, found.rope_scaling) == (release.parallel, release.tied, release.rope)


@dataclass
class Declared:
    """A config object as transformers makes them."""

    values: dict[str, object] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        return self.values


def test_a_config_object_serves_as_a_dict_does() -> None:
    assert detect_architecture(Declared({"model_type": "mixtral"})) is ModelArchitecture.MISTRAL


@pytest.mark.parametrize("name", ["architecture", "model_type"])
def test_the_architecture_field_counts_too(name: str) -> None:
    assert detect_architecture({name: "Qwen"}) is ModelArchitecture.QWEN


@pytest.mark.parametrize(
    ("layer", "prefix"),
    [
        (["attn.c_attn.weight", "mlp.c_fc.weight"], "transformer.h"),  # GPT-2 has learned positions
        (["mixer.in_proj.weight"], "backbone.layers"),
        (["self_attn.query_key_value.weight", "mlp.dense_h_to_4h.weight"], "transformer.encoder.layers"),
    ],
)
def test_others_are_not_taken_for_one_of_the_five(layer: list[str], prefix: str) -> None:
    assert (
        detect_architecture_from_tensors(names(layer, prefix=prefix, outside="transformer.wte.weight transformer.wpe.weight"))
        is ModelArchitecture.OTHER
    )


@pytest.mark.parametrize(
    ("model_type", "version"),
    [("t5gemma", None), ("t5gemma2", "2"), ("gemma3_text", "3"), ("qwen2_5_vl", "2.5"), ("phi4_multimodal", "4"), ("mllama", None)],
)
def test_version_is_the_familys_own(model_type: str, version: str | None) -> None:
    assert ArchitectureConfig.from_tensors({"model_type": model_type}, {}).version == version


NORMED_WITH_BIAS = {"input_layernorm.weight": (8,), "input_layernorm.bias": (8,), "mlp.dense_h_to_4h.weight": (32, 8)}
GATE_BESIDE = {"input_layernorm.weight": (8,), "mlp.dense_h_to_4h.weight": (64, 8), "mlp.dense_4h_to_h.weight": (8, 32)}
MIXER = {"norm.weight": (8,), "mixer.in_proj.weight": (64, 8)}


@pytest.mark.parametrize(
    ("model_type", "config", "layer", "norm", "activation"),
    [  # as released, where configs say less than transformers would write today
        ("falcon", {"layer_norm_epsilon": 1e-5}, NORMED_WITH_BIAS, NormType.LAYER_NORM, ActivationType.GELU),
        ("bloom", {"layer_norm_epsilon": 1e-5}, NORMED_WITH_BIAS, NormType.LAYER_NORM, ActivationType.GELU_TANH),
        ("chatglm", {"layernorm_epsilon": 1e-5}, GATE_BESIDE, NormType.RMS_NORM, ActivationType.SWIGLU),
        ("mamba", {"layer_norm_epsilon": 1e-5, "hidden_act": "silu"}, MIXER, NormType.RMS_NORM, ActivationType.SILU),
    ],
)
def test_blocks_of_releases(
    model_type: str, config: dict[str, object], layer: dict[str, tuple[int, ...]], norm: NormType, activation: ActivationType
) -> None:
    shapes = {f"model.layers.{index}.{name}": shape for index in range(2) for name, shape in layer.items()} | {"wte.weight": (99, 8)}
    tensors = {name: TensorEntry(name, "BF16", shape, "model.safetensors", 0, 2) for name, shape in shapes.items()}
    found = ArchitectureConfig.from_tensors(config | {"model_type": model_type}, tensors)
    assert (found.norm_type, found.activation) == (norm, activation)
