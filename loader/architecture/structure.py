"""The parts of a model, found from tensor names and shapes alone: stacks of layers, embedding, final norm, head.

Nothing here knows a model type. A stack is whatever is numbered on the outside and holds matrices under every number; the
embedding, norm and head are told by where they stand beside the stacks, by the words in their names and by their shapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..tensors import TensorEntry

Modality = Literal["text", "vision", "audio"]
Role = Literal["decoder", "encoder"]

_NUMBERED = re.compile(r"(?P<prefix>.+?)\.(?P<index>0|[1-9][0-9]{0,8})\.(?P<rest>.+)", re.DOTALL)
_MAX_LAYERS, _MAX_STACKS = 10_000, 1_000  # beyond what any model has: numbers that a hostile name chose
_MODALITY_WORDS: tuple[tuple[Modality, re.Pattern[str]], ...] = (
    ("vision", re.compile(r"vision|visual|image|img|video|(?<!sub)pixel|\bvit\b|patch_embeddings\b|timm")),
    ("audio", re.compile(r"audio|speech|acoustic|sound|wav|mel_|perception|semantic_tokenizer")),
)
# Modules between a tower and the text model, and other stacks that no token passes through on its way to the head.
_SIDE_WORDS = re.compile(r"projector|connector|qformer|perceiver_resampler|merger|mtp|nextn|draft|ctc|diariz|prediction_head|adapter")
_ENCODER_WORDS = re.compile(r"(^|[._])(encoder|enc)([._]|$)")
_DECODER_WORDS = re.compile(r"(^|[._])(decoder|dec)([._]|$)")
_CROSS_ATTENTION = re.compile(
    r"encoder_attn|EncDecAttention|cross_?attn|cross_?attention|crossattention|encoder_decoder_attention", re.IGNORECASE
)
_TOKEN_EMBEDDING = re.compile(
    r"(embed_tokens|word_embeddings?|tok_embeddings|token_embedding|token_embd|embed_in|wte|tokens_embed|input_embedding|embed_out|shared|embedding_table|embeddings?|embed|emb|transformer\.w)(\.\w+)?\.weight$"
)
_NOT_TOKEN_EMBEDDING = re.compile(
    r"pos|wpe|type|segment|lang|hash|norm|\bln|patch|class|cls|rotary|time|relative|per_layer|proj|entity|codebook"
)
# What is called an embedding but is a projection of a time, a class or a caption (diffusion models).
_PROJECTED = re.compile(r"time_?(step)?_?(text_)?emb|(^|[._])(add|class|label|guidance|context|caption|[ty])_emb")
_HEAD = re.compile(
    r"(^|[._])(lm_heads?|lm_head_\w+|output|embed_out|output_layer|output_projection|generator_lm_head|predict(ion)?s?|pred_layer|lm_loss|head|mlm|vocab_projector|decoder|cls|out_proj|unembed|logits?)([._]|$)"
)
_STRONG_HEAD = re.compile(r"(^|[._])(lm_heads?|unembed|embed_out)([._]|$)")
_NORM = re.compile(r"norm|(^|[._])ln([._\d]|$)", re.IGNORECASE)
_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Stack:
    """An ordered list of layers: `prefix.0`, `prefix.1`, ... with the tensors of each one by their names inside the layer."""

    prefix: str
    layers: Mapping[int, Mapping[str, TensorEntry]]
    names: frozenset[str]  # of tensors inside a layer, over all layers
    modality: Modality
    role: Role
    cross_attention: bool
    side: bool  # beside the way from the embedding to the head

    @property
    def num_layers(self) -> int:
        """How many layers there are on disk."""
        return len(self.layers)

    @property
    def nbytes(self) -> int:
        """Bytes of all layers."""
        return sum(tensor.nbytes for layer in self.layers.values() for tensor in layer.values())


@dataclass(frozen=True, slots=True)
class Structure:
    """The parts of a model. `main` is the stack that the head or the caller reads: the decoder's where there is one."""

    stacks: tuple[Stack, ...]
    main: Stack | None
    embedding: TensorEntry | None
    norm: TensorEntry | None
    head: TensorEntry | None
    outside: tuple[TensorEntry, ...]  # what belongs to no stack

    def stack(self, *, modality: Modality = "text", role: Role | None = None) -> Stack | None:
        """The largest stack of that modality (and role), side stacks left out."""
        fitting = [each for each in self.stacks if each.modality == modality and not each.side and role in (None, each.role)]
        return max(fitting, key=lambda each: each.nbytes, default=None)


def find_structure(
    tensors: Iterable[TensorEntry],
    *,
    vocab_size: int | None = None,
    tied: bool | None = None,
    is_encoder_decoder: bool | None = None,
    final_norm: str | None = None,
) -> Structure:
    """The parts of the model that these tensors make up.

    What the config tells helps to know the embedding from the head (`vocab_size`, `tied`) and what is called a decoder from one
    (`is_encoder_decoder`); `final_norm` names the module where a family calls it what others call something else. None of it is needed.
    """
    stacks, outside = _find_stacks(tensors)
    if is_encoder_decoder is False:
        stacks = tuple(_reconsidered(stacks))
    main = _main_stack(stacks)
    embedding = _find_embedding(outside, main, vocab_size)
    head = _find_head(outside, embedding)
    if tied and head is not None and embedding is None:
        embedding, head = head, None
    return Structure(stacks, main, embedding, _find_norm(outside, main, final_norm), head, outside)


def _find_stacks(tensors: Iterable[TensorEntry]) -> tuple[tuple[Stack, ...], tuple[TensorEntry, ...]]:
    numbered: dict[str, dict[int, dict[str, TensorEntry]]] = {}
    outside: list[TensorEntry] = []
    for tensor in tensors:
        match = _NUMBERED.match(tensor.name)
        if match is None:
            outside.append(tensor)
        else:
            numbered.setdefault(match["prefix"], {}).setdefault(int(match["index"]), {})[match["rest"]] = tensor
    stacks: list[Stack] = []
    for prefix, layers in numbered.items():
        if len(layers) <= _MAX_LAYERS and len(stacks) < _MAX_STACKS and _are_layers(layers):
            stacks.append(_stack(prefix, layers))
        else:
            outside.extend(tensor for layer in layers.values() for tensor in layer.values())
    return tuple(stacks), tuple(outside)


def _reconsidered(stacks: Sequence[Stack]) -> Iterator[Stack]:
    """What is called a decoder but sees no encoder, though there is one, only goes on encoding (Funnel's upsampling layers)."""
    encoders = [stack for stack in stacks if stack.role == "encoder" and stack.modality == "text" and not stack.side]
    for stack in stacks:
        blind = _DECODER_WORDS.search(stack.prefix) and not stack.cross_attention and stack.modality == "text"
        yield replace(stack, role="encoder") if blind and encoders else stack


def _are_layers(layers: Mapping[int, Mapping[str, TensorEntry]]) -> bool:
    """Whether numbered modules are layers, rather than numbered weights (per-codebook heads, a Sequential of linears).

    A layer holds several tensors, of which one is a matrix in a module of the layer's own.
    """
    return all(
        len(layer) > 1 and any(len(tensor.shape) >= 2 and "." in name for name, tensor in layer.items()) for layer in layers.values()
    )


def _stack(prefix: str, layers: Mapping[int, Mapping[str, TensorEntry]]) -> Stack:
    names = frozenset(name for layer in layers.values() for name in layer)
    cross = any(_CROSS_ATTENTION.search(f"{prefix}.{name}") for name in names)
    ordered = {index: layers[index] for index in sorted(layers)}
    return Stack(prefix, ordered, names, modality_of(prefix), _role_of(prefix, cross), cross, bool(_SIDE_WORDS.search(prefix)))


def modality_of(name: str) -> Modality:
    """What a module works on, by the words in its name."""
    for modality, words in _MODALITY_WORDS:
        if words.search(name):
            return modality
    return "text"


def _role_of(prefix: str, cross_attention: bool) -> Role:
    if _DECODER_WORDS.search(prefix) or cross_attention:
        return "decoder"
    return "encoder" if _ENCODER_WORDS.search(prefix) else "decoder"


def _main_stack(stacks: Iterable[Stack]) -> Stack | None:
    """The decoder over text where there is one, else the largest stack of text, else the largest of all."""

    def rank(stack: Stack) -> tuple[bool, bool, bool, bool, int]:
        attends = any(_ATTENTION.search(f"{stack.prefix}.{name}") for name in stack.names)
        return not stack.side, stack.modality == "text", stack.role == "decoder", attends, stack.nbytes

    return max(stacks, key=rank, default=None)


def _find_embedding(outside: Iterable[TensorEntry], main: Stack | None, vocab_size: int | None) -> TensorEntry | None:
    """The table of token vectors: the matrix outside the stacks that is named like one, else has a row for each token."""
    matrices = [tensor for tensor in outside if len(tensor.shape) == 2 and modality_of(tensor.name) == "text"]
    named = [tensor for tensor in matrices if _is_embedding_name(tensor.name)]
    top = main.prefix.split(".")[0] if main else ""

    def rank(tensor: TensorEntry) -> tuple[bool, bool, bool, int]:
        # An encoder's own table comes first: it is what reads the input.
        return tensor.shape[0] == vocab_size, not _DECODER_WORDS.search(tensor.name), tensor.name.startswith(top), tensor.shape[0]

    if named:
        return max(named, key=rank)
    return next((tensor for tensor in matrices if tensor.shape[0] == vocab_size and not _HEAD.search(tensor.name)), None)


def _is_embedding_name(name: str) -> bool:
    own = name.rsplit(".", 2)[-2] if "." in name else name
    no = _NOT_TOKEN_EMBEDDING.search(own) or _STRONG_HEAD.search(name) or _PROJECTED.search(name)
    return not no and _TOKEN_EMBEDDING.search(name) is not None


def _find_head(outside: Iterable[TensorEntry], embedding: TensorEntry | None) -> TensorEntry | None:
    """The projection onto the vocabulary: a name that says so, and as many rows as the embedding has unless the name leaves no doubt."""
    matrices = [tensor for tensor in outside if len(tensor.shape) == 2 and tensor is not embedding and _HEAD.search(tensor.name)]
    rows = embedding.shape[0] if embedding is not None else None
    fitting = [
        each for each in matrices if (rows in (None, each.shape[0]) and not _is_embedding_name(each.name)) or _is_whole_head(each.name)
    ]
    return max(fitting, key=lambda tensor: tensor.shape[0], default=None)


def _is_whole_head(name: str) -> bool:
    """Whether a name means the projection itself, not a transform before it (`lm_head.dense`)."""
    return re.search(r"(^|[._])(lm_heads?(\.\d+)?|unembed|embed_out)\.weight$", name) is not None


def _find_norm(outside: Iterable[TensorEntry], main: Stack | None, final_norm: str | None) -> TensorEntry | None:
    """The norm after the last layer: a vector that stands beside the main stack, or one level further out."""
    if main is None:
        return None
    vectors = [
        tensor for tensor in outside if len(tensor.shape) == 1 and not tensor.name.endswith(("bias", "_b")) and _NORM.search(tensor.name)
    ]
    parent = main.prefix.rpartition(".")[0]
    for level in (parent, parent.rpartition(".")[0]):
        beside = [
            tensor
            for tensor in vectors
            if _stands_in(tensor.name, level) and (_child(tensor.name, level) == final_norm or not _is_before(_child(tensor.name, level)))
        ]
        if beside:
            return max(beside, key=lambda tensor: ("final" in tensor.name, "ln_f" in tensor.name, tensor.shape[0]))
    return None


def _stands_in(name: str, module: str) -> bool:
    """Whether a tensor belongs to a direct child of `module`."""
    rest = name.removeprefix(module + ".") if module else name
    return (rest != name or not module) and rest.count(".") == 1


def _child(name: str, module: str) -> str:
    return name.removeprefix(module + ".").split(".")[0]


def _is_before(child: str) -> bool:
    """Whether a norm belongs to the embedding, or to the head's own transform, rather than after the layers."""
    return child != "embedding_norm" and re.search(r"emb(?!.*after)|vocab|pre_?norm|in_norm|input", child) is not None
