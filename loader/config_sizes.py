"""The sizes that a config declares, held against the shapes of the tensors: values of a wrong type, heads, feed-forward, vocabulary.

A size is contradicted where every layer says otherwise: some families give single layers sizes of their own. Packed tensors say nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from .architecture.config_view import ConfigView
from .architecture.quantization import Parameters
from .checkpoint import Checkpoint
from .problems import Problem
from .tensors import TensorEntry
from .text import printable

_SHAPED = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"})  # whose shape is the weights' own
_PACKED_DTYPES = ("U8", "I8", "I32", "U32")  # of quantized tables, whose rows count something else
_CONFIG_FILE = "config.json"
# Sizes that every config gives as one whole number, and those that some leave open or give for each layer.
_ONE_FOR_ALL = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
_LEFT_OPEN = ("num_key_value_heads", "intermediate_size", "head_dim", "max_position_embeddings")
_PROJECTIONS = (*(f"self_attn.{name}_proj.weight" for name in "qko"), "mlp.up_proj.weight", "mlp.down_proj.weight")

_Layer = Mapping[str, TensorEntry]


def size_problems(checkpoint: Checkpoint, view: ConfigView) -> Iterator[Problem]:
    """Everything in which the config's sizes and the tensors differ, but for the number of layers."""
    structure = checkpoint.architecture.structure
    if _CONFIG_FILE in checkpoint.files:
        yield from _value_problems(view)
    if structure.norm is not None:
        yield from _hidden_size_problem(structure.norm, view.integer("hidden_size"))
    yield from _vocabulary_problem(checkpoint, view)
    if structure.main is not None and "auto_map" not in view.whole:  # a model's own code may read its config otherwise
        own = ConfigView(view.text)  # outside its section stand the sizes of other parts, too
        layers = [_plain(layer, checkpoint.parameters) for layer in structure.main.layers.values()]
        yield from _contradicted("attention-heads", (_attention(layer, own) for layer in layers))
        yield from _contradicted("intermediate-size", (_feed_forward(layer, own) for layer in layers))


def _value_problems(view: ConfigView) -> Iterator[Problem]:
    """Sizes that are no whole numbers: transformers refuses them, and nothing else here can use them."""
    for key in (*_ONE_FOR_ALL, *_LEFT_OPEN):
        value = view.text.get(key, 0)
        open_value = key in _LEFT_OPEN and (value is None or isinstance(value, list))
        if key in view.text and view.integer(key) is None and not open_value:
            shown = f"'{printable(value, limit=40)}'" if isinstance(value, str) else printable(value, limit=40)
            yield Problem("error", "config-value", f"{key} is {shown}, which is no size that a model has", file=_CONFIG_FILE)


def _hidden_size_problem(norm: TensorEntry, hidden_size: int | None) -> Iterator[Problem]:
    if hidden_size and norm.shape[0] % hidden_size:  # a reversible model carries two halves
        message = f"has {norm.shape[0]:,} elements, but the config's hidden_size is {hidden_size:,}"
        yield Problem("error", "hidden-size", message, file=norm.file, tensor=norm.name)


def _vocabulary_problem(checkpoint: Checkpoint, view: ConfigView) -> Iterator[Problem]:
    """What makes the logits has as many rows as the vocabulary, more if padded; an embedding beside a head of its own may have more."""
    structure, vocab_size = checkpoint.architecture.structure, view.integer("vocab_size")
    table = structure.head or structure.embedding
    if table is None or vocab_size is None or table.dtype in _PACKED_DTYPES:
        return
    makes_logits = structure.head is not None or checkpoint.architecture.tie_embeddings
    message = f"has {table.shape[0]:,} rows, but the config's vocab_size is {vocab_size:,}"
    if table.shape[0] < vocab_size and table.shape[0] != view.integer("draft_vocab_size"):
        yield Problem("error", "vocab-size", message, file=table.file, tensor=table.name)
    elif makes_logits and table.shape[0] > vocab_size and view.integer("pad_vocab_size_multiple") is None:
        yield Problem("warning", "vocab-size", message, file=table.file, tensor=table.name)


_Contradiction = tuple[TensorEntry, str]


def _contradicted(code: str, verdicts: Iterable[_Contradiction | Literal[False] | None]) -> Iterator[Problem]:
    """The first layer's contradiction if no layer agrees; a verdict is False where one does, None where it says nothing."""
    first: _Contradiction | None = None
    for found in verdicts:
        if found is False:
            return
        first = first or found
    if first is not None:
        yield Problem("error", code, first[1], file=first[0].file, tensor=first[0].name)


def _plain(layer: _Layer, parameters: Parameters) -> _Layer:
    """The projections of a layer whose shapes are the weights' own."""
    found = ((name, layer[name]) for name in _PROJECTIONS if name in layer)
    return {name: each for name, each in found if len(each.shape) == 2 and each.dtype in _SHAPED and parameters.of(each) == each.numel}


def _attention(layer: _Layer, view: ConfigView) -> _Contradiction | Literal[False] | None:
    """Queries have num_attention_heads * head_dim rows, keys num_key_value_heads * head_dim.

    What the output takes tells the width of all heads as well, and alone where queries carry a gate.
    """
    query, key, output = (layer.get(name) for name in _PROJECTIONS[:3])
    heads, kv_heads, head_dim = (view.integer(key) for key in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    if query is None or key is None or output is None or not heads:
        return None
    width = output.shape[1]
    if width % heads or (head_dim and heads * head_dim not in (width, query.shape[0])):
        of = f" of {head_dim:,}" if head_dim else ""
        return query, f"has {query.shape[0]:,} rows, which num_attention_heads does not fit: {heads:,} heads{of} by the config"
    if kv_heads and key.shape[0] != kv_heads * (head_dim or width // heads):
        dim = head_dim or width // heads
        return key, f"has {key.shape[0]:,} rows, but by the config's num_key_value_heads {kv_heads:,} heads of {dim:,}"
    return False


def _feed_forward(layer: _Layer, view: ConfigView) -> _Contradiction | Literal[False] | None:
    """The feed-forward block widens to intermediate_size and narrows from it."""
    up, down = (layer.get(name) for name in _PROJECTIONS[3:])
    size = view.integer("intermediate_size")
    if up is None or down is None or not size:
        return None
    if size in (up.shape[0], down.shape[1]):
        return False
    return up, f"has {up.shape[0]:,} rows, but the config's intermediate_size is {size:,}"
