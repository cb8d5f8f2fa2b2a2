"""The sizes that decide what a forward takes: from config and tensors, as far as they tell."""

from __future__ import annotations

from dataclasses import dataclass

from ..architecture import ActivationType, Kind, NormType
from ..architecture.config_view import ConfigView
from ..architecture.kv_cache import KVCache, detect_kv_cache, head_dim, kv_heads
from ..checkpoint import Checkpoint
from ..dtypes import BITS

_GATED = (ActivationType.SWIGLU, ActivationType.GEGLU, ActivationType.REGLU)


@dataclass(frozen=True, slots=True)
class Shapes:
    """Of the main stack: `hidden` the residual stream, `inner` the feed-forward block, `queries` and `keys` all heads of each."""

    kind: Kind | None
    hidden: int
    inner: int
    heads: int
    queries: int
    keys: int
    vocabulary: int
    layers: int
    context: int | None
    is_gated: bool
    is_rms_normed: bool
    has_rope: bool
    has_position_bias: bool
    experts: int
    experts_per_token: int
    expert_inner: int
    window: int | None
    kv_cache: KVCache | None
    generates: bool

    @property
    def logit_positions(self) -> int | None:
        """How many positions of a sequence a head is run over: the last one of a model that generates, None for all."""
        return 1 if self.generates else None


def shapes_of(checkpoint: Checkpoint) -> Shapes:
    """The sizes; 0 for what neither config nor tensors tell."""
    view, architecture = ConfigView(checkpoint.config), checkpoint.architecture
    structure = architecture.structure
    embedding = structure.embedding
    table_of_words = structure.head or embedding
    hidden = view.integer("hidden_size") or (embedding.shape[1] if embedding else 0)
    heads, width = view.integer("num_attention_heads") or 0, head_dim(view, hidden) or 0
    cache = detect_kv_cache(view, structure, architecture.kind, _dtype(checkpoint))
    experts = view.integer("num_experts") or 0
    return Shapes(
        kind=architecture.kind,
        hidden=hidden,
        inner=view.integer("intermediate_size") or 4 * hidden,
        heads=heads,
        queries=heads * width,
        keys=(kv_heads(view) or heads) * width,
        vocabulary=table_of_words.shape[0] if table_of_words else view.integer("vocab_size") or 0,
        layers=structure.main.num_layers if structure.main else 0,
        context=view.integer("max_position_embeddings"),
        is_gated=architecture.activation in _GATED,
        is_rms_normed=architecture.norm_type is NormType.RMS_NORM,
        has_rope=architecture.rope is not None,
        has_position_bias=any("relative_attention_bias" in name for stack in structure.stacks for name in stack.names),
        experts=experts,
        experts_per_token=view.integer("num_experts_per_tok") or 0,
        expert_inner=(view.integer("moe_intermediate_size") or view.integer("intermediate_size") or 0) if experts else 0,
        window=cache.window if cache else None,
        kv_cache=cache,
        generates=architecture.kind in (Kind.DECODER_ONLY, Kind.SEQ2SEQ, Kind.VISION_LANGUAGE),
    )


def _dtype(checkpoint: Checkpoint) -> str | None:
    """What most weights are stored in, of those that computing is done in."""
    counts = {"F32": 0, "F16": 0, "BF16": 0}
    for tensor in checkpoint.tensors.values():
        if tensor.dtype in counts:
            counts[tensor.dtype] += tensor.nbytes * 8 // BITS[tensor.dtype]
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] else None
