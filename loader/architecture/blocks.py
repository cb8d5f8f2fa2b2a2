"""What the layers are made of: norm, activation, gates, fused projections, residual form, from the config and the layers' tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum

from ...configs import table
from .config_view import ConfigView
from .structure import Stack


class ActivationType(StrEnum):
    """The feed-forward block's activation; the names in -GLU are gated."""

    SWIGLU = "SwiGLU"
    GEGLU = "GeGLU"
    REGLU = "ReGLU"
    SILU = "SiLU"
    GELU = "GELU"
    GELU_TANH = "GELUTanh"
    RELU = "ReLU"
    RELU_SQUARED = "ReLU2"
    OTHER = "other"


class NormType(StrEnum):
    """The layers' normalisation."""

    RMS_NORM = "RMSNorm"
    LAYER_NORM = "LayerNorm"


_FUSED_QKV = re.compile(r"qkv|c_attn|query_key_value", re.IGNORECASE)
_FUSED_GATE_UP = re.compile(r"gate_up|up_gate|\bw13\b|w13_|\bw12\b|mlp\.Wi\b")
_GATED = re.compile(
    r"gate_proj|gate_up|up_gate|mlp\.linear_gate|ffn_gate\b|\bw3\b|\bwi_1\b|\bw13\b|w13_|\bw12\b|\bfc12\b|\bw_1\b|mlp\.v1\b|linear_v|mlp\.Wi\b"
)
# Projections in and out of a feed-forward block: where the first has twice the rows that the second has columns, a gate is fused into it.
_IN_AND_OUT = (("fc1", "fc2"), ("input_linear", "output_linear"), ("dense_h_to_4h", "dense_4h_to_h"), ("ffn_up", "ffn_down"))
_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_FEED_FORWARD = re.compile(r"mlp|feed_forward|ffn|fc1|fc_in|experts|moe", re.IGNORECASE)
_NORM = re.compile(r"norm|(^|[._])ln(_|\d|$|\.)", re.IGNORECASE)
_INNER_NORM = re.compile(r"indexer|mixer|([._]|^)(q|k|kv|query|key)(_\w+)?_?(layer)?norm|(q|k)_ln", re.IGNORECASE)
_ACTIVATIONS: tuple[tuple[re.Pattern[str], ActivationType, ActivationType], ...] = (  # plain and gated
    (re.compile(r"silu|swish|swiglu|^glu$"), ActivationType.SILU, ActivationType.SWIGLU),
    (re.compile(r"gelu.*(new|tanh|fast|approx)"), ActivationType.GELU_TANH, ActivationType.GEGLU),
    (re.compile(r"gelu|geglu"), ActivationType.GELU, ActivationType.GEGLU),
    (re.compile(r"relu2|relu.*square|square.*relu"), ActivationType.RELU_SQUARED, ActivationType.OTHER),
    (re.compile(r"^(gated-)?relu$|reglu"), ActivationType.RELU, ActivationType.REGLU),
)


def fused_qkv(stack: Stack | None) -> bool:
    """Whether queries, keys and values come from one matrix."""
    return stack is not None and _any(_FUSED_QKV, stack.names)


def fused_gate_up(stack: Stack | None) -> bool:
    """Whether gate and up projection are one matrix."""
    return stack is not None and (_any(_FUSED_GATE_UP, stack.names) or _has_doubled_projection(stack))


def activation(view: ConfigView, stack: Stack | None, *, defaults: tuple[str | None, str] = (None, "silu")) -> ActivationType | None:
    """The activation that config or family name, else one of `defaults` (plain, gated); None if nothing tells."""
    if stack is None:
        return None
    named = _activation_name(view)
    # Qwen 1 calls its pair of gated matrices w1 and w2, beside a c_proj.
    gated = (
        any(_GATED.search(name) and not _ATTENTION.search(name.split(".")[0]) for name in stack.names)
        or (named or "").startswith("gated")
        or stack.names >= {"mlp.w1.weight", "mlp.w2.weight", "mlp.c_proj.weight"}
        or _has_doubled_projection(stack)
    )
    name = named or defaults[gated]
    if name is None:
        return None
    return next((pair[gated] for words, *pair in _ACTIVATIONS if words.search(name)), ActivationType.OTHER)


def _activation_name(view: ConfigView) -> str | None:
    named = view.get("hidden_act")
    if isinstance(named, dict):  # DBRX
        named = named.get("name")
    if isinstance(named, bool):  # XLM's gelu_activation
        return "gelu" if named else "relu"
    return named.lower() if isinstance(named, str) else table("peculiarities")["hidden_act"].get(view.text_type)


def _has_doubled_projection(stack: Stack) -> bool:
    """Whether a projection has room for the gate beside what it gates (Granite's experts, Moshi, ChatGLM)."""
    for word, other in _IN_AND_OUT:
        name = next((name for name in stack.names if word in name and name.endswith("weight") and not _ATTENTION.search(name)), None)
        for layer in stack.layers.values() if name else ():
            into, out = layer.get(name or ""), layer.get((name or "").replace(word, other))
            if into is not None and out is not None and len(into.shape) == len(out.shape) >= 2:
                return into.shape[-2] == 2 * out.shape[-1]
    return False


def norm_type(view: ConfigView, stack: Stack | None) -> NormType | None:
    """LayerNorm where a norm of the residual stream has a bias or the config tells so, RMSNorm where it has a weight alone."""
    if stack is None:
        return None
    norms = [name for name in stack.names if _is_norm(name)]
    if any(name.endswith("running_mean") for name in norms):  # batch norm
        return None
    if any(name.endswith((".bias", ".beta")) and not _INNER_NORM.search(name) for name in norms) or _declares_layer_norm(view):
        return NormType.LAYER_NORM
    return NormType.RMS_NORM if norms or view.get("rms_norm_eps") is not None else None


def _is_norm(name: str) -> bool:
    module = name.rsplit(".", 2)[-2] if "." in name else name
    return _NORM.search(module) is not None


def _declares_layer_norm(view: ConfigView) -> bool:
    """A LayerNorm without bias is known by the config's words alone, or by the family."""
    if view.text_type in table("peculiarities")["layer_norm"] or view.get("norm_bias") is not None:
        return True
    if "layernorm" in (view.string("norm_type") or "").lower():
        return True
    return view.get("layer_norm_eps") is not None and view.get("rms_norm_eps") is None


def is_parallel(view: ConfigView, stack: Stack | None) -> bool:
    """Attention and feed-forward side by side: said by the config, or seen by one norm serving both."""
    for key in ("use_parallel_residual", "parallel_attn", "new_decoder_architecture"):
        declared = view.flag(key)
        if declared is not None:
            return declared
    if view.model_type in table("peculiarities")["parallel_residual"]:
        return True
    names = stack.names if stack else frozenset[str]()
    norms = {name for name in names if name.count(".") == 1 and name.endswith(".weight") and _NORM.search(name.split(".")[0])}
    return len(norms) == 1 and _any(_ATTENTION, names) and _any(_FEED_FORWARD, names)


def _any(pattern: re.Pattern[str], names: Iterable[str]) -> bool:
    return any(pattern.search(name) for name in names)
