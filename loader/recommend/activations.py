"""What a forward takes beside weights and cache: its widest moment, by the arithmetic of transformers' own modules.

Tensors that live at once are counted for each part of a layer, in elements a token; the widest part counts, for every layer gives its
memory to the next one (`execution.allocation` sees to it that freed memory goes back). Of the residual stream's width there are always
the embeddings and the layer's input, each kept by whoever called, and the stream itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from .shapes import Shapes
from .use import Use

_FLOAT = 4  # bytes: norms and softmax are computed in float32
# Of oneDNN, measured on a processor with AMX: 0.46 to 1 MiB a shape; as many as its cache holds; of the products of one layer.
_KERNEL, _KEPT_KERNELS, _PRODUCTS = 600_000, 1_024, 8


@dataclass(frozen=True, slots=True)
class Moment:
    """One part of a forward: bytes at once, and how they come about."""

    name: str
    nbytes: int
    arithmetic: str


def moments(shapes: Shapes, use: Use, width: int) -> list[Moment]:
    """The parts of a layer, each with what is there at once; `width` is of the dtype that is computed in."""
    return [
        _norm(shapes, use, width),
        _attention(shapes, use, width),
        _experts(shapes, use, width) if shapes.experts_per_token else _feed_forward(shapes, use, width),
    ]


def widest(shapes: Shapes, use: Use, width: int) -> Moment:
    """The part that takes most."""
    return max(moments(shapes, use, width), key=lambda moment: moment.nbytes)


def logits(shapes: Shapes, use: Use, width: int) -> Moment:
    """Those of the last token for a model that goes on from it, of every token for one that does not; beside the last hidden states."""
    positions = shapes.logit_positions or use.context
    nbytes = use.batch * positions * shapes.vocabulary * width
    states = 3 if shapes.logit_positions else 6  # a head over all tokens has a layer of its own before it
    held = states * use.tokens * shapes.hidden * width
    words = f"{use.batch} x {positions:,} x {shapes.vocabulary:,} words x {width} B"
    text = f"{words} + {use.tokens:,} tokens x {states} x {shapes.hidden:,} x {width} B"
    return Moment("logits", nbytes + held, text)


def _norm(shapes: Shapes, use: Use, width: int) -> Moment:
    """An RMSNorm holds the stream in float32 twice beside the three that there are; torch's LayerNorm only what it returns."""
    floats, own = (2, 3) if shapes.is_rms_normed else (0, 4)
    nbytes = use.tokens * shapes.hidden * (own * width + floats * _FLOAT)
    return Moment("norm", nbytes, f"{use.tokens:,} tokens x {shapes.hidden:,} x ({own} x {width} B + {floats} x {_FLOAT} B)")


def _attention(shapes: Shapes, use: Use, width: int) -> Moment:
    """Three of the stream, its norm; queries, keys and values, queries three times more while they are turned, else the output; scores."""
    held = 4 * shapes.hidden + shapes.queries + 2 * shapes.keys
    beside = 3 * shapes.queries if shapes.has_rope else 2 * shapes.queries
    nbytes = use.tokens * (held + beside) * width
    text = f"{use.tokens:,} tokens x ({held:,} + {beside:,}) x {width} B"
    scores = use.batch * shapes.heads * use.context**2
    if shapes.has_position_bias:  # as it is, and with the mask in it
        nbytes += 2 * scores * width
        text += f" + 2 x {use.batch} x {shapes.heads} heads x {use.context:,}² x {width} B of position bias"
    if use.attention == "eager":
        nbytes += scores * (width + _FLOAT + width)
        text += f" + {use.batch} x {shapes.heads} heads x {use.context:,}² x ({width} + {_FLOAT} + {width}) B"
    elif shapes.window is not None and shapes.window < use.context:
        mask = use.batch * use.context**2 * (1 + width)
        nbytes += mask + use.tokens * 2 * shapes.queries * width
        text += f" + a mask of {use.batch} x {use.context:,}² x (1 + {width}) B, keys and values for each head"
    return Moment("attention", nbytes, text)


def _feed_forward(shapes: Shapes, use: Use, width: int) -> Moment:
    """Three of the stream, its norm, and what is inside: gate, up and their product, or what is before and after the activation."""
    inner = (3 if shapes.is_gated else 2) * shapes.inner
    nbytes = use.tokens * (4 * shapes.hidden + inner) * width
    return Moment("feed-forward", nbytes, f"{use.tokens:,} tokens x (4 x {shapes.hidden:,} + {inner:,}) x {width} B")


def _experts(shapes: Shapes, use: Use, width: int) -> Moment:
    """Each token once for every expert that it meets: its states, gate and up, their product; in the end its states four times over."""
    rows = use.tokens * shapes.experts_per_token
    row = max(shapes.hidden + 4 * shapes.expert_inner, 4 * shapes.hidden)
    nbytes = rows * row * width + use.tokens * 4 * shapes.hidden * width
    text = f"{rows:,} rows x {row:,} x {width} B + {use.tokens:,} tokens x 4 x {shapes.hidden:,} x {width} B"
    return Moment("experts", nbytes, text)


def kernels(shapes: Shapes, use: Use, dtype: str) -> Moment:
    """The code that oneDNN makes on a CPU for each shape of a product in 16 bits, and keeps.

    A layer's matrices have one number of rows, but each expert gets another number of tokens.
    """
    if dtype == "float32":
        return Moment("kernels", 0, "none in float32")
    different = _PRODUCTS
    if shapes.experts_per_token:
        mean = use.tokens * shapes.experts_per_token // max(shapes.experts, 1)
        different += 2 * min(shapes.layers * shapes.experts, 2 * mean + 1)
    different = min(different, _KEPT_KERNELS)
    return Moment("kernels", different * _KERNEL, f"{different} shapes x {_KERNEL:,} B")
