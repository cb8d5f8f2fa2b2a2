"""What a forward takes beside weights and cache: its widest moment, by the arithmetic of transformers' own modules.

Tensors that live at once are counted for each part of a layer, in elements a token; the widest part counts, for every layer gives its
memory to the next one. Four of the residual stream's width are there all the time: the embeddings, the layer's input (each kept by whoever
called), the stream itself and its norm; and cosines and sines of the positions.
"""

from __future__ import annotations

from dataclasses import dataclass

from .shapes import Shapes
from .use import Use

_FLOAT = 4  # bytes: norms and softmax are computed in float32


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
    """Those of the last token for a model that goes on from it, of every token for one that does not."""
    positions = shapes.logit_positions or use.context
    nbytes = use.batch * positions * shapes.vocabulary * width
    return Moment("logits", nbytes, f"{use.batch} x {positions:,} x {shapes.vocabulary:,} words x {width} B")


def _norm(shapes: Shapes, use: Use, width: int) -> Moment:
    """An RMSNorm holds the stream in float32 twice beside the stream and its own copy; torch's LayerNorm only what it returns."""
    floats = 2 if shapes.is_rms_normed else 0
    nbytes = use.tokens * shapes.hidden * (2 * width + floats * _FLOAT)
    return Moment("norm", nbytes, f"{use.tokens:,} tokens x {shapes.hidden:,} x (2 x {width} B + {floats} x {_FLOAT} B)")


def _attention(shapes: Shapes, use: Use, width: int) -> Moment:
    """Stream, norm, queries, keys and values; a second set of queries and keys while they are turned, or the output; eager: the scores."""
    held = 2 * shapes.hidden + shapes.queries + 2 * shapes.keys
    beside = 2 * shapes.queries if shapes.has_rope else shapes.queries
    nbytes = use.tokens * (held + beside) * width
    text = f"{use.tokens:,} tokens x ({held:,} + {beside:,}) x {width} B"
    if use.attention == "eager":
        scores = use.batch * shapes.heads * use.context**2
        nbytes += scores * (width + _FLOAT + width)
        text += f" + {use.batch} x {shapes.heads} heads x {use.context:,}² x ({width} + {_FLOAT} + {width}) B"
    return Moment("attention", nbytes, text)


def _feed_forward(shapes: Shapes, use: Use, width: int) -> Moment:
    """Stream, norm, and the block's inner tensors: gate, up and their product, or the one before and after the activation."""
    inner = (3 if shapes.is_gated else 2) * shapes.inner
    nbytes = use.tokens * (2 * shapes.hidden + inner) * width
    return Moment("feed-forward", nbytes, f"{use.tokens:,} tokens x (2 x {shapes.hidden:,} + {inner:,}) x {width} B")


def _experts(shapes: Shapes, use: Use, width: int) -> Moment:
    """Each token once for every expert that it meets: sorted, gate and up side by side, their product."""
    rows = use.tokens * shapes.experts_per_token
    inner = 3 * shapes.expert_inner
    nbytes = rows * (shapes.hidden + inner) * width + use.tokens * 2 * shapes.hidden * width
    text = f"{rows:,} rows x ({shapes.hidden:,} + {inner:,}) x {width} B + {use.tokens:,} tokens x 2 x {shapes.hidden:,} x {width} B"
    return Moment("experts", nbytes, text)
